/* common.c: what several commands need: engine options, a model's tokenizer, lists of ids. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"

int hd_engine_args(const struct hd_args *a, struct hd_engine_options *o, struct hd_err *err)
{
    static const char *const names[] = {[HD_KV_F32] = "f32", [HD_KV_F16] = "f16", [HD_KV_NATIVE] = "native", [HD_KV_AUTO] = "auto"};
    const char *exact = hd_args_text(a, "exact", NULL), *kv = hd_args_text(a, "kv", "auto");

    *o = (struct hd_engine_options){.n_thread = (int)hd_args_int(a, "threads", 0),
                                    .cpu = hd_args_text(a, "cpu", getenv("HD_CPU")),
                                    .n_ctx = hd_args_int(a, "ctx", 0),
                                    .chunk = hd_args_int(a, "chunk", 0),
                                    .shortcut = hd_args_has(a, "shortcut")};
    if (exact && strcmp(exact, "f32") && strcmp(exact, "official"))
        return hd_err_set(err, HD_ERR_USAGE, "--exact: found \"%.40s\"; expected f32 or official", exact);
    o->exact = !exact ? HD_EXACT_NONE : !strcmp(exact, "f32") ? HD_EXACT_F32 : HD_EXACT_OFFICIAL;
    for (o->kv = HD_KV_F32; o->kv < HD_LEN(names) && strcmp(kv, names[o->kv]); o->kv++)
        ;
    if (o->kv == HD_LEN(names))
        return hd_err_set(err, HD_ERR_USAGE, "--kv: found \"%.40s\"; expected auto, native, f32 or f16", kv);
    if (o->exact != HD_EXACT_NONE)
        o->kv = HD_KV_F32;
    return HD_OK;
}

int hd_draft_args(const struct hd_args *a, struct hd_engine_options *o, struct hd_speculate_options *out, struct hd_err *err)
{
    const char *how = hd_args_text(a, "draft", "auto"), *n = how;
    char *end = NULL;

    *out = (struct hd_speculate_options){.kind = HD_DRAFT_AUTO};
    if (!strcmp(how, "off")) {
        out->kind = HD_DRAFT_OFF;
    } else if (!strncmp(how, "ngram", 5)) {
        out->kind = HD_DRAFT_LOOKUP;
        n = how[5] == ':' ? how + 6 : how + 5;
        if (how[5] && how[5] != ':')
            n = "?";
    } else if (strcmp(how, "auto")) {
        out->kind = HD_DRAFT_MODULE;
    }
    if (out->kind == HD_DRAFT_MODULE || (out->kind == HD_DRAFT_LOOKUP && how[5])) {
        out->depth = strtoll(n, &end, 10);
        if (end == n || *end || out->depth < 1 || out->depth > HD_DRAFT_MAX)
            return hd_err_set(err, HD_ERR_USAGE, "--draft: found \"%.40s\"; expected auto, off, ngram, or 1 to %d tokens (N or ngram:N)", how, HD_DRAFT_MAX);
    }
    o->draft = out->kind == HD_DRAFT_AUTO || out->kind == HD_DRAFT_MODULE;
    return HD_OK;
}

int hd_cli_ids(const char *text, struct hd_ids *out, struct hd_err *err)
{
    char *file = NULL;
    const char *p = text;
    size_t n;
    int rc = HD_OK;

    if (text[0] == '@') {
        HD_TRY(hd_file_read(text + 1, (size_t)1 << 30, &file, &n, err));
        p = file;
    }
    while (rc == HD_OK) {
        char *end;
        long long v;

        p += strspn(p, " \t\r\n");
        if (!*p && !out->n)
            break;
        errno = 0;
        v = strtoll(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX) {
            rc = hd_err_set(err, file ? HD_ERR_FORMAT : HD_ERR_USAGE, "token %zu: found \"%.30s\"; expected ids of 0 or more with commas between", out->n, p);
            break;
        }
        if (!HD_GROW(out->id, out->cap, out->n + 1, (size_t)1 << 31)) {
            rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", out->n);
            break;
        }
        out->id[out->n++] = (int32_t)v;
        p = end + strspn(end, " \t\r\n");
        if (!*p)
            break;
        if (*p == ',')
            p++;
    }
    hd_free(file);
    return rc;
}
