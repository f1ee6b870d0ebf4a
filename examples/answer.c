/* answer.c: a whole program on hadal.h: loads a model, asks it one question, streams the answer.
 *
 * answer MODEL [QUESTION]
 */
#include <hadal.h>
#include <stdio.h>
#include <string.h>

static int show(void *arg, const char *text, size_t n)
{
    fwrite(text, 1, n, stdout);
    return fflush(stdout);
}

/* {"messages": [{"role": "user", "content": QUESTION}]} */
static void messages(char *buf, size_t size, const char *question)
{
    size_t n = (size_t)snprintf(buf, size, "{\"messages\": [{\"role\": \"user\", \"content\": \"");

    for (; *question && n + 16 < size; question++)
        n += (size_t)snprintf(buf + n, size - n, strchr("\"\\", *question) || (unsigned char)*question < 32 ? "\\u%04x" : "%c", *question);
    snprintf(buf + n, size - n, "\"}]}");
}

int main(int argc, char **argv)
{
    struct hadal_model *model;
    struct hadal_session *session = NULL;
    struct hadal_sampling sampling;
    struct hadal_answer answer;
    struct hadal_err err;
    char json[4096];
    int32_t *ids = NULL;
    size_t n;

    if (argc < 2) {
        fprintf(stderr, "usage: answer MODEL [QUESTION]\n");
        return 2;
    }
    messages(json, sizeof json, argc > 2 ? argv[2] : "What lives in the deep sea?");
    hadal_sampling_init(&sampling);
    sampling.temperature = 0;
    if (hadal_open(&model, argv[1], NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    if (hadal_session_open(&session, model, &err) < 0 || hadal_chat_tokens(model, json, &ids, &n, &err) < 0 ||
        hadal_generate(session, ids, n, 200, &sampling, NULL, 0, show, NULL, &answer, &err) < 0)
        fprintf(stderr, "%s\n", err.msg);
    else
        fprintf(stderr, "\n[%lld tokens in %.1f s]\n", (long long)answer.n_tokens, answer.decode_s);
    hadal_free(ids);
    hadal_session_close(session);
    hadal_close(model);
    return 0;
}
