/* cmd_tokenize.c: hadal tokenize: text to ids and back, conversations to prompts. */
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "token/chat.h"
#include "token/parse.h"
#include "token/py_json.h"

static void print_ids(const struct hd_args *a, const struct hd_ids *ids)
{
    bool json = hd_args_has(a, "json");

    if (json)
        hd_out_printf("{\"ids\": [");
    for (size_t i = 0; i < ids->n; i++)
        hd_out_printf("%s%d", i ? "," : "", ids->id[i]);
    hd_out_printf(json ? "]}\n" : "\n");
}

static int chat(const struct hd_args *a, struct hd_tokenizer *t, struct hd_err *err)
{
    struct hd_chat_options opt = {hd_args_has(a, "no-generation-prompt"), hd_args_has(a, "thinking") ? "on" : NULL};
    json_t *doc = hd_py_json_read(hd_args_text(a, "chat", ""), (size_t)64 << 20, err);
    struct hd_chat_text c;
    struct hd_ids ids = {0};
    int rc;

    if (!doc)
        return err->code;
    hd_chat_text_init(&c);
    rc = hd_chat_render(t, doc, &opt, &c, err);
    if (rc == HD_OK && hd_args_has(a, "ids")) {
        if ((rc = hd_chat_ids(t, &c, &ids, err)) == HD_OK)
            print_ids(a, &ids);
    } else if (rc == HD_OK) {
        hd_out_text(hd_str_get(&c.text), c.text.n);
    }
    hd_ids_release(&ids);
    hd_chat_text_release(&c);
    json_decref(doc);
    return rc;
}

static int decode(const struct hd_args *a, struct hd_tokenizer *t, struct hd_err *err)
{
    const char *file = hd_args_text(a, "ids-file", NULL);
    struct hd_ids ids = {0};
    struct hd_str text, at;
    int rc;

    if (!file)
        return hd_err_set(err, HD_ERR_USAGE, "--decode: --ids-file FILE is missing");
    hd_str_init(&text, 0);
    hd_str_init(&at, 0);
    hd_str_printf(&at, "@%s", file);
    rc = hd_cli_ids(hd_str_get(&at), &ids, err);
    if (rc < 0)
        hd_err_prepend(err, "%s", file);
    for (size_t i = 0; rc == HD_OK && i < ids.n; i++)
        if (ids.id[i] >= hd_tokenizer_size(t))
            rc = hd_err_set(err, HD_ERR_FORMAT, "%s: token %zu: found id %d; expected 0 to %lld", file, i, ids.id[i], (long long)hd_tokenizer_size(t) - 1);
    if (rc == HD_OK) {
        hd_detokenize(t, ids.id, ids.n, true, &text);
        hd_out_text(hd_str_get(&text), text.n);
    }
    hd_ids_release(&ids);
    hd_str_release(&text);
    hd_str_release(&at);
    return rc;
}

static int print_message(const struct hd_parse_message *m, struct hd_err *err)
{
    json_t *j = hd_parse_message_json(m);
    struct hd_str s;
    bool ok;

    hd_str_init(&s, 0);
    json_object_set_new(j, "end", json_string(hd_parse_how_name(m->how)));
    hd_py_json(j, &s);
    ok = j && hd_str_putc(&s, '\n');
    if (ok)
        hd_out_text(hd_str_get(&s), s.n);
    hd_str_release(&s);
    json_decref(j);
    return ok ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for the message");
}

/* A completion as text: markers as they are spelled. */
static int parse(const struct hd_args *a, const struct hd_tokenizer *t, const char *text, size_t n, struct hd_err *err)
{
    struct hd_parse_message m;
    struct hd_parse_options o = {.family = hd_parse_family(hd_chat_family(t)),
                                 .start = hd_args_has(a, "thinking") ? HD_PARSE_IN_REASONING : HD_PARSE_IN_CONTENT,
                                 .event = hd_parse_gather,
                                 .arg = &m};
    struct hd_parse p;
    int rc;

    hd_parse_message_init(&m);
    hd_parse_init(&p, &o);
    rc = hd_parse_feed(&p, text, n, false, err);
    if (rc == HD_OK)
        rc = hd_parse_finish(&p, false, err);
    if (rc == HD_OK)
        rc = print_message(&m, err);
    hd_parse_message_release(&m);
    return rc;
}

/* Megabytes a second on one core: best and median of repetitions over at least a second. */
static int bench(const struct hd_args *a, struct hd_tokenizer *t, const char *text, size_t n, struct hd_err *err)
{
    double rate[64], start = hd_now();
    struct hd_ids ids = {0};
    int reps = 0;

    while (reps < 64 && (reps < 3 || hd_now() - start < 2)) {
        double t0 = hd_now();
        int k = reps++;

        ids.n = 0;
        HD_TRY(hd_tokenize(t, text, n, hd_args_has(a, "special") ? HD_TOK_SPECIAL : 0, &ids, err));
        rate[k] = 1e-6 * (double)n / (hd_now() - t0);
        for (; k > 0 && rate[k - 1] < rate[k]; k--) {
            double r = rate[k];

            rate[k] = rate[k - 1];
            rate[k - 1] = r;
        }
    }
    hd_out_printf(hd_args_has(a, "json") ? "{\"bytes\": %zu, \"ids\": %zu, \"mbs_best\": %.2f, \"mbs_median\": %.2f}\n"
                                         : "%zu bytes, %zu ids: %.1f MB/s best, %.1f MB/s median\n",
                  n, ids.n, rate[0], rate[reps / 2]);
    hd_ids_release(&ids);
    return HD_OK;
}

static int run(struct hd_args *a, struct hd_err *err)
{
    const char *text = hd_args_text(a, "prompt", NULL), *file = hd_args_text(a, "text-file", NULL);
    int n_what = (text != NULL) + (file != NULL) + hd_args_has(a, "decode") + hd_args_has(a, "chat"), rc;
    struct hd_tokenizer *t;
    struct hd_ids ids = {0};
    char *data = NULL;
    size_t n = text ? strlen(text) : 0;

    if (n_what != 1)
        return hd_err_set(err, HD_ERR_USAGE, "one of -p TEXT, --text-file FILE, --decode or --chat FILE is expected");
    HD_TRY(hd_model_tokenizer(&t, a->positional[0], err));
    if (hd_args_has(a, "decode")) {
        rc = decode(a, t, err);
    } else if (hd_args_has(a, "chat")) {
        rc = chat(a, t, err);
    } else {
        rc = file ? hd_file_read(file, (size_t)1 << 31, &data, &n, err) : HD_OK;
        if (rc == HD_OK && hd_args_has(a, "bench"))
            rc = bench(a, t, file ? data : text, n, err);
        else if (rc == HD_OK && hd_args_has(a, "parse"))
            rc = parse(a, t, file ? data : text, n, err);
        else if (rc == HD_OK)
            rc = hd_tokenize(t, file ? data : text, n, hd_args_has(a, "special") ? HD_TOK_SPECIAL : 0, &ids, err);
        if (rc == HD_OK && !hd_args_has(a, "bench") && !hd_args_has(a, "parse"))
            print_ids(a, &ids);
        hd_free(data);
        hd_ids_release(&ids);
    }
    hd_tokenizer_free(t);
    return rc;
}

static const struct hd_opt opts[] = {
    {"prompt", 'p', HD_OPT_TEXT, "TEXT", 0, 0, "the text"},
    {"text-file", 0, HD_OPT_TEXT, "FILE", 0, 0, "the text, from a file"},
    {"ids", 0, HD_OPT_FLAG, NULL, 0, 0, "print comma-separated ids (what is printed anyway, except with --chat)"},
    {"bench", 0, HD_OPT_FLAG, NULL, 0, 0, "print megabytes a second instead of ids"},
    {"special", 0, HD_OPT_FLAG, NULL, 0, 0, "match added tokens in the text"},
    {"decode", 0, HD_OPT_FLAG, NULL, 0, 0, "the other way: bytes of the ids in --ids-file"},
    {"ids-file", 0, HD_OPT_TEXT, "FILE", 0, 0, "ids with commas between, for --decode"},
    {"chat", 0, HD_OPT_TEXT, "FILE", 0, 0, "a messages.json: prints the rendered prompt, or its ids with --ids"},
    {"parse", 0, HD_OPT_FLAG, NULL, 0, 0, "the text is what a model answered: print it as a message, in JSON"},
    {"thinking", 0, HD_OPT_FLAG, NULL, 0, 0, "render with reasoning on, where the family knows it; --parse: the text begins inside the reasoning"},
    {"no-generation-prompt", 0, HD_OPT_FLAG, NULL, 0, 0, "leave the assistant's header out"},
};

const struct hd_cmd hd_cmd_tokenize = {"tokenize", "text to token ids and back", "tokenize MODEL -p TEXT [--parse] | --text-file FILE [--parse] | --decode --ids-file FILE | --chat FILE",
                                       "Needs the tokenizer only, no weights. No BOS is added; plain text matches no added token unless --special is given.",
                                       opts, HD_LEN(opts), 1, run, NULL};
