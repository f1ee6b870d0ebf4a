/* args.c: options by table: parsing, help, man pages, completion. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <time.h>

#include "cli/cli.h"

const struct hd_opt hd_common_opts[] = {
    {"json", 0, HD_OPT_FLAG, NULL, 0, 0, "machine-readable output"},
    {"threads", 't', HD_OPT_INT, "N", 1, 1024, "workers (default: physical cores)"},
    {"cpu", 0, HD_OPT_TEXT, "LEVEL", 0, 0, "instruction set: scalar, avx2, avx512, avx512vnni, avx512bf16, amx or neon (default: the best)"},
    {"quiet", 'q', HD_OPT_FLAG, NULL, 0, 0, "no progress and no closing line"},
    {"help", 'h', HD_OPT_FLAG, NULL, 0, 0, "this text"},
};
const int hd_n_common_opt = HD_LEN(hd_common_opts);

static const struct hd_opt *opt_at(const struct hd_cmd *c, int i)
{
    return i < c->n_opt ? &c->opt[i] : i < c->n_opt + hd_n_common_opt ? &hd_common_opts[i - c->n_opt] : NULL;
}

static int find_opt(const struct hd_cmd *c, const char *name, size_t n, char letter)
{
    const struct hd_opt *o;

    for (int i = 0; (o = opt_at(c, i)); i++)
        if (letter ? o->letter == letter : strlen(o->name) == n && !strncmp(o->name, name, n))
            return i;
    return -1;
}

/* Levenshtein distance of short words, for suggestions. */
static int distance(const char *a, const char *b)
{
    int row[64], n = (int)strlen(b);

    if (n > 62)
        return 99;
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diag = row[0];

        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int keep = row[j], best = diag + (a[i - 1] != b[j - 1]);

            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diag = keep;
        }
    }
    return row[n];
}

static int unknown_option(const struct hd_cmd *c, const char *name, struct hd_err *err)
{
    const struct hd_opt *o, *best = NULL;
    char word[64];
    int d = 4;

    snprintf(word, sizeof word, "%.*s", (int)strcspn(name, "="), name);
    for (int i = 0; (o = opt_at(c, i)); i++)
        if (distance(word, o->name) < d) {
            d = distance(word, o->name);
            best = o;
        }
    return best ? hd_err_set(err, HD_ERR_USAGE, "unknown option --%s; did you mean --%s?", word, best->name)
                : hd_err_set(err, HD_ERR_USAGE, "unknown option --%s; see hadal %s --help", word, c->name);
}

static int set_value(struct hd_args *a, int i, const char *v, struct hd_err *err)
{
    const struct hd_opt *o = opt_at(a->cmd, i);
    int64_t n;
    double d;

    if (o->kind == HD_OPT_INT && !hd_parse_i64(v, (int64_t)o->lo, (int64_t)o->hi, &n))
        return hd_err_set(err, HD_ERR_USAGE, "--%s: found \"%.60s\"; expected an integer from %.0f to %.0f", o->name, v, o->lo, o->hi);
    if (o->kind == HD_OPT_REAL && !hd_parse_f64(v, o->lo, o->hi, &d))
        return hd_err_set(err, HD_ERR_USAGE, "--%s: found \"%.60s\"; expected a number from %g to %g", o->name, v, o->lo, o->hi);
    if (o->kind == HD_OPT_LIST) {
        if (a->n_list == HD_MAX_LIST)
            return hd_err_set(err, HD_ERR_USAGE, "--%s: at most %d expected", o->name, HD_MAX_LIST);
        a->list[a->n_list++] = v;
    }
    a->value[i] = v;
    return HD_OK;
}

/* Was an option given that needs no positional? */
static int stands_in(const struct hd_args *a)
{
    const char *p = a->cmd->instead;
    char name[32];

    for (; p && *p; p += strcspn(p, "|"), p += *p == '|') {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(p, "|"), p);
        if (hd_args_has(a, name))
            return 1;
    }
    return 0;
}

int hd_args_parse(struct hd_args *a, int argc, char **argv, struct hd_err *err)
{
    bool only_positional = false;

    for (int k = 0; k < argc; k++) {
        const char *s = argv[k], *value = NULL;
        const struct hd_opt *o;
        int i;

        if (only_positional || s[0] != '-' || !s[1]) {
            if (a->n_positional >= a->cmd->n_positional)
                return hd_err_set(err, HD_ERR_USAGE, "unexpected argument \"%.100s\"; usage: hadal %s", s, a->cmd->usage);
            a->positional[a->n_positional++] = s;
            continue;
        }
        if (!strcmp(s, "--")) {
            only_positional = true;
            continue;
        }
        if (s[1] == '-') {
            size_t n = strcspn(s + 2, "=");

            i = find_opt(a->cmd, s + 2, n, 0);
            if (i < 0)
                return unknown_option(a->cmd, s + 2, err);
            value = s[2 + n] == '=' ? s + 3 + n : NULL;
        } else {
            i = find_opt(a->cmd, NULL, 0, s[1]);
            if (i < 0)
                return hd_err_set(err, HD_ERR_USAGE, "unknown option -%c; see hadal %s --help", s[1], a->cmd->name);
            value = s[2] ? s + 2 : NULL;
        }
        o = opt_at(a->cmd, i);
        if (o->kind == HD_OPT_FLAG) {
            if (value)
                return hd_err_set(err, HD_ERR_USAGE, "--%s takes no value", o->name);
            a->value[i] = "";
            continue;
        }
        if (!value && k + 1 >= argc)
            return hd_err_set(err, HD_ERR_USAGE, "--%s: %s is missing", o->name, o->arg);
        HD_TRY(set_value(a, i, value ? value : argv[++k], err));
    }
    if (!hd_args_has(a, "help") && a->n_positional < a->cmd->n_positional - stands_in(a))
        return hd_err_set(err, HD_ERR_USAGE, "an argument is missing; usage: hadal %s", a->cmd->usage);
    return HD_OK;
}

static const char *value_of(const struct hd_args *a, const char *name)
{
    int i = find_opt(a->cmd, name, strlen(name), 0);

    return i >= 0 ? a->value[i] : NULL;
}

bool hd_args_has(const struct hd_args *a, const char *name)
{
    return value_of(a, name) != NULL;
}

const char *hd_args_text(const struct hd_args *a, const char *name, const char *dflt)
{
    const char *v = value_of(a, name);

    return v ? v : dflt;
}

int64_t hd_args_int(const struct hd_args *a, const char *name, int64_t dflt)
{
    const char *v = value_of(a, name);

    return v ? strtoll(v, NULL, 10) : dflt;
}

double hd_args_real(const struct hd_args *a, const char *name, double dflt)
{
    const char *v = value_of(a, name);

    return v ? strtod(v, NULL) : dflt;
}

/* ---- stdout ---- */

static int out_errno;

void hd_out_text(const char *p, size_t n)
{
    errno = 0;
    if (n && !out_errno && fwrite(p, 1, n, stdout) != n)
        out_errno = errno ? errno : EIO;
}

void hd_out_printf(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    errno = 0;
    if (!out_errno && vprintf(fmt, ap) < 0)
        out_errno = errno ? errno : EIO;
    va_end(ap);
}

int hd_out_flush(struct hd_err *err)
{
    errno = 0;
    if (!out_errno && fflush(stdout))
        out_errno = errno ? errno : EIO;
    if (!out_errno)
        return HD_OK;
    errno = out_errno;
    return hd_err_errno(err, HD_ERR_IO, "stdout: cannot write");
}

double hd_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- texts made from the tables ---- */

static void opt_head(const struct hd_opt *o, char *buf, size_t n)
{
    if (o->letter)
        snprintf(buf, n, "-%c, --%s%s%s", o->letter, o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    else
        snprintf(buf, n, "    --%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
}

void hd_help_cmd(const struct hd_cmd *c)
{
    const struct hd_opt *o;
    char head[96];

    hd_out_printf("hadal %s: %s\n\nusage: hadal %s\n\n%s\n\noptions:\n", c->name, c->summary, c->usage, c->text);
    for (int i = 0; (o = opt_at(c, i)); i++) {
        opt_head(o, head, sizeof head);
        hd_out_printf("  %-28s %s\n", head, o->help);
    }
}

void hd_help_all(void)
{
    hd_out_printf("hadal: runs and measures large language models on ordinary CPUs\n\nusage: hadal COMMAND ...\n\ncommands:\n");
    for (int i = 0; i < hd_n_cmd; i++)
        hd_out_printf("  %-10s %s\n", hd_cmds[i]->name, hd_cmds[i]->summary);
    hd_out_printf("  %-10s %s\n  %-10s %s\n  %-10s %s\n\nMODEL is a directory with config.json and *.safetensors, or a .gguf file.\n"
                  "hadal COMMAND --help tells a command's options.\n",
                  "help", "this text, or a command's", "man", "a command's manual page (troff)", "completion", "a completion script: bash or zsh");
}

void hd_man(const struct hd_cmd *c)
{
    const struct hd_opt *o;
    char head[96];

    hd_out_printf(".TH HADAL-%s 1\n.SH NAME\nhadal-%s \\- %s\n.SH SYNOPSIS\n.B hadal %s\n.SH DESCRIPTION\n%s\n.SH OPTIONS\n", c->name, c->name, c->summary,
                  c->usage, c->text);
    for (int i = 0; (o = opt_at(c, i)); i++) {
        opt_head(o, head, sizeof head);
        hd_out_printf(".TP\n.B %s\n%s\n", head + strspn(head, " "), o->help);
    }
    hd_out_printf(".SH EXIT STATUS\n0 success, 1 the world (files, memory, output), 2 usage.\n.SH ENVIRONMENT\n.TP\n.B HD_CPU\nas --cpu\n");
}

void hd_man_all(void)
{
    hd_out_printf(".TH HADAL 1\n.SH NAME\nhadal \\- runs and measures large language models on ordinary CPUs\n.SH SYNOPSIS\n.B hadal\nCOMMAND ...\n.SH COMMANDS\n");
    for (int i = 0; i < hd_n_cmd; i++)
        hd_out_printf(".TP\n.BR hadal-%s (1)\n%s\n", hd_cmds[i]->name, hd_cmds[i]->summary);
    hd_out_printf(".SH MODEL\nA directory with config.json and *.safetensors, or a .gguf file.\n.SH EXIT STATUS\n0 success, 1 the world (files, memory, output), 2 usage.\n");
}

int hd_completion(const char *shell, struct hd_err *err)
{
    bool zsh = !strcmp(shell, "zsh");

    if (!zsh && strcmp(shell, "bash"))
        return hd_err_set(err, HD_ERR_USAGE, "completion: found \"%.40s\"; expected bash or zsh", shell);
    if (zsh)
        hd_out_printf("#compdef hadal\nautoload -U +X bashcompinit && bashcompinit\n");
    hd_out_printf("_hadal() {\n  local cur=${COMP_WORDS[COMP_CWORD]} cmd=${COMP_WORDS[1]} words=\n  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    words=\"help man completion");
    for (int i = 0; i < hd_n_cmd; i++)
        hd_out_printf(" %s", hd_cmds[i]->name);
    hd_out_printf("\"\n  else\n    case $cmd in\n");
    for (int i = 0; i < hd_n_cmd; i++) {
        const struct hd_opt *o;

        hd_out_printf("    %s) words=\"", hd_cmds[i]->name);
        for (int k = 0; (o = opt_at(hd_cmds[i], k)); k++)
            hd_out_printf("%s--%s", k ? " " : "", o->name);
        hd_out_printf("\";;\n");
    }
    hd_out_printf("    esac\n  fi\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n  [ \"${cur#-}\" = \"$cur\" ] && [ \"$COMP_CWORD\" -gt 1 ] && "
                  "COMPREPLY+=($(compgen -f -- \"$cur\"))\n}\ncomplete -o filenames -F _hadal hadal\n");
    return HD_OK;
}
