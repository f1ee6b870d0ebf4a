/* common.c: what several commands need: engine options, a model's tokenizer, lists of ids. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"

void hd_cli_planned(const struct hd_plan *p)
{
    char r[32], d[32], c[32], k[32], s[32];

    if (p->draft_note[0])
        fprintf(stderr, "draft module not used: %s\n", p->draft_note);
    if (p->pack_note[0])
        fprintf(stderr, "pack not used: %s; experts come from the checkpoint (hadal pack makes it again)\n", p->pack_note);
    if (p->n_slot)
        fprintf(stderr, "bigger than memory: %s resident, %s on disk%s; cache of %lld experts %s, context %s, steps of %lld tokens %s\n", hd_fmt_bytes(r, p->resident_bytes),
                hd_fmt_bytes(d, p->disk_bytes), p->n_packed ? " (experts in a pack)" : "", (long long)p->n_slot, hd_fmt_bytes(c, p->n_slot * p->slot_bytes), hd_fmt_bytes(k, p->cache_bytes), (long long)p->chunk,
                hd_fmt_bytes(s, p->step_bytes));
}

void hd_cli_disk_line(const struct hd_experts_stats *from, const struct hd_experts_stats *to, double seconds)
{
    int64_t hit = to->hit - from->hit, miss = to->miss - from->miss, bytes = to->bytes - from->bytes;
    char b[32];

    if (to->n_damaged > from->n_damaged)
        fprintf(stderr, "[pack: %lld records are damaged; these experts came from the checkpoint (hadal pack --check names the first)]\n", (long long)(to->n_damaged - from->n_damaged));
    fprintf(stderr, "[disk: %lld of %lld experts in memory (%.1f %%), %lld read (%s, %.2f GB/s), %lld ahead, %lld of them used; %lld rows; waited %.2f of %.2f s]\n",
            (long long)hit, (long long)(hit + miss), hit + miss ? 100.0 * (double)hit / (double)(hit + miss) : 100.0, (long long)(to->n_read - from->n_read), hd_fmt_bytes(b, bytes),
            seconds > 0 ? 1e-9 * (double)bytes / seconds : 0, (long long)(to->ahead - from->ahead), (long long)(to->ahead_used - from->ahead_used),
            (long long)(to->n_row - from->n_row), to->wait_s - from->wait_s, seconds);
}

int64_t hd_cli_bytes(const char *option, const char *text, struct hd_err *err)
{
    static const char units[] = "KMGT";
    char *end;
    double v = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end & ~32) : NULL;

    if (unit) {
        bool binary = end[1] == 'i' && end[2] == 'B';

        for (int i = 0; i <= unit - units; i++)
            v *= binary ? 1024 : 1000;
        end += binary ? 3 : end[1] == 'B' ? 2 : 1;
    }
    if (end == text || *end || !(v >= 1) || v > 1e18)
        return hd_err_set(err, HD_ERR_USAGE, "--%s: found \"%.40s\"; expected bytes, as 24G, 512MiB or 1.5T", option, text);
    return (int64_t)v;
}

int hd_engine_args(const struct hd_args *a, struct hd_engine_options *o, struct hd_err *err)
{
    static const char *const names[] = {[HD_KV_F32] = "f32", [HD_KV_F16] = "f16", [HD_KV_NATIVE] = "native", [HD_KV_AUTO] = "auto"};
    const char *exact = hd_args_text(a, "exact", NULL), *kv = hd_args_text(a, "kv", "auto"), *memory = hd_args_text(a, "memory", "auto");

    *o = (struct hd_engine_options){.n_thread = (int)hd_args_int(a, "threads", 0),
                                    .cpu = hd_args_text(a, "cpu", getenv("HD_CPU")),
                                    .n_ctx = hd_args_int(a, "ctx", 0),
                                    .chunk = hd_args_int(a, "chunk", 0),
                                    .pack = hd_args_text(a, "pack", NULL),
                                    .shortcut = hd_args_has(a, "shortcut")};
    if (strcmp(memory, "auto")) {
        if ((o->memory = hd_cli_bytes("memory", memory, err)) < 0)
            return HD_ERR_USAGE;
    }
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
    o->draft = out->kind == HD_DRAFT_MODULE;
    o->draft_if_whole = out->kind == HD_DRAFT_AUTO;
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
