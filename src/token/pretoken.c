/* pretoken.c: see pretoken.h. Patterns run on PCRE2 with JIT.
 *
 * Patterns are written for Oniguruma. Two things are translated: \s and \S, since PCRE2's \s also takes U+180E, and nothing
 * else: alternation order, lookaheads, possessive quantifiers and classes mean the same. Text that is no valid UTF-8 goes
 * through a second compilation that tolerates it (malformed bytes match nothing and end up in pieces of their own).
 */
#include "token/pretoken.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/mem.h"

enum behaviour { ISOLATED, REMOVED, WITH_PREVIOUS, WITH_NEXT };

struct step {
    pcre2_code *strict, *lenient;
    pcre2_match_data *md;
    enum behaviour behaviour;
    bool invert, prefix_space;        /* prefix_space: a step without pattern that puts a space in front of each piece */
};

#define MAX_STEP 16

struct hd_pretoken {
    struct step step[MAX_STEP];
    int n_step;
    pcre2_general_context *gc;
    pcre2_match_context *mc;
    pcre2_jit_stack *stack;
    struct hd_str prefixed[MAX_STEP];
};

static const char gpt2[] = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char deepseek_digits[] = "\\p{N}{1,3}";
static const char deepseek_cjk[] = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
static const char deepseek_rest[] =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* DeepSeek LLM, V2 and Coder, as their tokenizer.json says. */
static const char newline[] = "[\\r\\n]";
static const char deepseek_llm_letters[] =
    "\\s?["
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}"
    "\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}"
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}"
    "\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}"
    "\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}"
    "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}"
    "\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}"
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}"
    "\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}"
    "\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
    "]+";
static const char deepseek_llm_marks[] = "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+";
static const char deepseek_llm_cjk[] = "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+";

static void *pcre_alloc(size_t n, void *arg)
{
    return hd_malloc(n);
}

static void pcre_free(void *p, void *arg)
{
    hd_free(p);
}

/* \s -> the class that Oniguruma means, in and outside of brackets. false when out of memory. */
static bool translate(const char *s, size_t n, struct hd_str *out)
{
    static const char space[] = "\\t-\\r\\x{85}\\p{Z}";
    bool in_class = false;

    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\' && i + 1 < n) {
            char c = s[++i];

            if (c == 's')
                hd_str_printf(out, in_class ? "%s" : "[%s]", space);
            else if (c == 'S' && !in_class)
                hd_str_printf(out, "[^%s]", space);
            else
                hd_str_printf(out, "\\%c", c);
            continue;
        }
        if (s[i] == '[' && !in_class) {
            in_class = true;
            hd_str_putc(out, '[');
            if (i + 1 < n && s[i + 1] == '^')
                hd_str_putc(out, s[++i]);
            if (i + 1 < n && s[i + 1] == ']') {
                hd_str_puts(out, "\\]");
                i++;
            }
            continue;
        }
        if (s[i] == ']' && in_class)
            in_class = false;
        hd_str_putc(out, s[i]);
    }
    return !out->failed;
}

static int compile(struct hd_pretoken *p, const char *pattern, size_t n, bool literal, struct step *st, const char *file, struct hd_err *err)
{
    uint32_t base = literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP;
    pcre2_compile_context *cc = pcre2_compile_context_create(p->gc);
    struct hd_str s;
    PCRE2_SIZE at;
    int code, rc = HD_OK;

    hd_str_init(&s, (size_t)1 << 20);
    if (!cc || !(literal ? hd_str_add(&s, pattern, n) : translate(pattern, n, &s))) {
        rc = hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for a pattern", file);
    } else {
        pcre2_set_parens_nest_limit(cc, 100);
        st->strict = pcre2_compile((PCRE2_SPTR)s.s, s.n, base, &code, &at, cc);
        if (!st->strict) {
            char text[128];

            pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
            rc = code == PCRE2_ERROR_HEAP_FAILED ? hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for a pattern", file)
                                                 : hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: pre_tokenizer: pattern %.80s: %s", file, pattern, text);
        } else if (!(st->lenient = pcre2_compile((PCRE2_SPTR)s.s, s.n, base | PCRE2_MATCH_INVALID_UTF, &code, &at, cc)) ||
                   !(st->md = pcre2_match_data_create(8, p->gc))) {
            rc = hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for a pattern", file);
        } else {
            pcre2_jit_compile(st->strict, PCRE2_JIT_COMPLETE);      /* without JIT pcre2_match() interprets: slower, same result */
            pcre2_jit_compile(st->lenient, PCRE2_JIT_COMPLETE);
        }
    }
    hd_str_release(&s);
    if (cc)
        pcre2_compile_context_free(cc);
    return rc;
}

static int add_step(struct hd_pretoken *p, const char *pattern, size_t n, bool literal, enum behaviour b, bool invert, const char *file, struct hd_err *err)
{
    if (p->n_step == MAX_STEP)
        return hd_err_set(err, HD_ERR_LIMIT, "%s: pre_tokenizer: more than %d steps", file, MAX_STEP);
    p->step[p->n_step] = (struct step){.behaviour = b, .invert = invert};
    p->n_step++;                                                    /* first, so that freeing covers what compile() made */
    return compile(p, pattern, n, literal, &p->step[p->n_step - 1], file, err);
}

static int add_json(struct hd_pretoken *p, const json_t *j, int depth, const char *file, struct hd_err *err);

static int add_split(struct hd_pretoken *p, const json_t *j, const char *file, struct hd_err *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext"};
    const json_t *pattern = json_object_get(j, "pattern"), *re = json_object_get(pattern, "Regex"), *lit = json_object_get(pattern, "String");
    const json_t *text = json_is_string(re) ? re : lit;
    const char *b;
    bool invert;
    int k = 0;

    if (json_is_string(pattern)) {
        text = pattern;
        re = NULL;
    }
    if (!json_is_string(text))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: pre_tokenizer: Split: pattern: expected {\"Regex\": ...} or {\"String\": ...}", file);
    HD_TRY(hd_json_str_or(j, "behavior", "Isolated", &b, file, err));
    HD_TRY(hd_json_bool_or(j, "invert", false, &invert, file, err));
    while (k < HD_LEN(names) && strcmp(names[k], b))
        k++;
    if (k == HD_LEN(names))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: pre_tokenizer: Split: behavior: found \"%s\"; expected Isolated, Removed, MergedWithPrevious or MergedWithNext",
                          file, b);
    return add_step(p, json_string_value(text), json_string_length(text), !json_is_string(re), (enum behaviour)k, invert, file, err);
}

static int add_byte_level(struct hd_pretoken *p, const json_t *j, const char *file, struct hd_err *err)
{
    bool prefix, regex;

    HD_TRY(hd_json_bool_or(j, "add_prefix_space", true, &prefix, file, err));
    HD_TRY(hd_json_bool_or(j, "use_regex", true, &regex, file, err));
    if (prefix) {
        if (p->n_step == MAX_STEP)
            return hd_err_set(err, HD_ERR_LIMIT, "%s: pre_tokenizer: more than %d steps", file, MAX_STEP);
        p->step[p->n_step++] = (struct step){.prefix_space = true};
    }
    return regex ? add_step(p, gpt2, sizeof gpt2 - 1, false, ISOLATED, false, file, err) : HD_OK;
}

static int add_json(struct hd_pretoken *p, const json_t *j, int depth, const char *file, struct hd_err *err)
{
    const char *type;
    bool flag;

    HD_TRY(hd_json_str_or(j, "type", "", &type, file, err));
    if (!strcmp(type, "Sequence") && depth < 4) {
        const json_t *list = json_object_get(j, "pretokenizers"), *e;
        size_t i;

        if (!json_is_array(list))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: pre_tokenizer: Sequence: pretokenizers: expected a list", file);
        json_array_foreach((json_t *)list, i, e) HD_TRY(add_json(p, e, depth + 1, file, err));
        return HD_OK;
    }
    if (!strcmp(type, "Split"))
        return add_split(p, j, file, err);
    if (!strcmp(type, "ByteLevel"))
        return add_byte_level(p, j, file, err);
    if (!strcmp(type, "Digits")) {
        HD_TRY(hd_json_bool_or(j, "individual_digits", false, &flag, file, err));
        return flag ? add_step(p, "\\p{N}", 5, false, ISOLATED, false, file, err) : add_step(p, "\\p{N}+", 6, false, ISOLATED, false, file, err);
    }
    return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: pre_tokenizer: type: found \"%s\"; expected Sequence, Split, ByteLevel, Digits or Metaspace", file, type);
}

static int create(struct hd_pretoken **out, const char *file, struct hd_err *err)
{
    struct hd_pretoken *p = hd_calloc(1, sizeof *p);

    if (p && (!(p->gc = pcre2_general_context_create(pcre_alloc, pcre_free, NULL)) || !(p->mc = pcre2_match_context_create(p->gc)) ||
              !(p->stack = pcre2_jit_stack_create(32 << 10, 4 << 20, p->gc)))) {
        hd_pretoken_free(p);
        p = NULL;
    }
    if (!p)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the pre-tokenizer", file);
    pcre2_jit_stack_assign(p->mc, NULL, p->stack);
    for (int i = 0; i < MAX_STEP; i++)
        hd_str_init(&p->prefixed[i], (size_t)1 << 30);
    *out = p;
    return HD_OK;
}

int hd_pretoken_create(struct hd_pretoken **out, const json_t *j, const char *file, struct hd_err *err)
{
    struct hd_pretoken *p;
    int rc;

    HD_TRY(create(&p, file, err));
    rc = j && !json_is_null(j) ? add_json(p, j, 0, file, err) : HD_OK;
    if (rc < 0)
        hd_pretoken_free(p);
    else
        *out = p;
    return rc;
}

int hd_pretoken_named(struct hd_pretoken **out, struct hd_view name, const char *file, struct hd_err *err)
{
    static const struct {
        const char *name, *pattern[6];
    } known[] = {{"gpt-2", {gpt2}},
                 {"gpt2", {gpt2}},
                 {"mpt", {gpt2}},
                 {"olmo", {gpt2}},
                 {"jais", {gpt2}},
                 {"phi-2", {gpt2}},
                 {"smollm", {"\\p{N}", gpt2}},
                 {"starcoder", {"\\p{N}", gpt2}},
                 {"refact", {"\\p{N}", gpt2}},
                 {"command-r", {"\\p{N}", gpt2}},
                 {"codeshell", {"\\p{N}", gpt2}},
                 {"llama-bpe", {llama3}},
                 {"llama3", {llama3}},
                 {"llama-v3", {llama3}},
                 {"smaug-bpe", {llama3}},
                 {"dbrx", {llama3}},
                 {"qwen2", {qwen2}},
                 {"deepseek-r1-qwen", {qwen2}},
                 {"stablelm2", {qwen2}},
                 {"deepseek-v3", {deepseek_digits, deepseek_cjk, deepseek_rest}},
                 {"deepseek-llm", {newline, deepseek_llm_letters, deepseek_llm_marks, "\\s+$", deepseek_llm_cjk, "\\p{N}"}},
                 {"deepseek-coder", {newline, "\\s?\\p{L}+", "\\s?\\p{P}+", deepseek_llm_cjk, "\\p{N}"}},
                 {"joyai-llm", {deepseek_digits, deepseek_cjk, deepseek_rest}}};
    struct hd_pretoken *p;
    int rc = HD_OK;

    for (int i = 0; i < HD_LEN(known); i++) {
        if (!hd_view_is(name, known[i].name))
            continue;
        HD_TRY(create(&p, file, err));
        for (int k = 0; k < 6 && known[i].pattern[k] && rc == HD_OK; k++)
            rc = add_step(p, known[i].pattern[k], strlen(known[i].pattern[k]), false, ISOLATED, false, file, err);
        if (rc < 0)
            hd_pretoken_free(p);
        else
            *out = p;
        return rc;
    }
    return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: tokenizer.ggml.pre: found \"%.*s\"; expected gpt-2, smollm, llama-bpe, qwen2, deepseek-v3, deepseek-llm or one of their kin",
                      file, (int)(name.n > 60 ? 60 : name.n), name.p);
}

void hd_pretoken_free(struct hd_pretoken *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_step; i++) {
        pcre2_code_free(p->step[i].strict);
        pcre2_code_free(p->step[i].lenient);
        pcre2_match_data_free(p->step[i].md);
    }
    for (int i = 0; i < MAX_STEP; i++)
        hd_str_release(&p->prefixed[i]);
    pcre2_jit_stack_free(p->stack);
    pcre2_match_context_free(p->mc);
    pcre2_general_context_free(p->gc);
    hd_free(p);
}

struct walk {
    struct hd_pretoken *p;
    bool valid;                       /* the text is well-formed UTF-8 */
    hd_word_fn fn;
    void *arg;
    struct hd_err *err;
};

static int run_step(struct walk *w, int step, const char *text, size_t n);

/* Hands a piece to the next step, or out. */
static int emit(struct walk *w, int step, const char *p, size_t n)
{
    if (n == 0)
        return HD_OK;
    return step + 1 < w->p->n_step ? run_step(w, step + 1, p, n) : w->fn(w->arg, p, n, w->err);
}

static int run_prefix(struct walk *w, int step, const char *text, size_t n)
{
    struct hd_str *s = &w->p->prefixed[step];

    if (text[0] == ' ')
        return emit(w, step, text, n);
    hd_str_reset(s);
    if (!hd_str_putc(s, ' ') || !hd_str_add(s, text, n))
        return hd_err_set(w->err, HD_ERR_MEMORY, "no memory to tokenize %zu bytes", n);
    return emit(w, step, s->s, s->n);
}

/* The next match at or after from; 0 none, 1 found, below zero an error. */
static int next_match(struct walk *w, struct step *st, const char *text, size_t n, size_t from, size_t *begin, size_t *end)
{
    pcre2_code *code = w->valid ? st->strict : st->lenient;
    int rc = pcre2_match(code, (PCRE2_SPTR)text, n, from, w->valid ? PCRE2_NO_UTF_CHECK : 0, st->md, w->p->mc);
    PCRE2_SIZE *v;

    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return hd_err_set(w->err, rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_JIT_STACKLIMIT ? HD_ERR_MEMORY : HD_ERR_LIMIT,
                          "the pre-tokenizer's pattern gave up on this text (PCRE2 error %d)", rc);
    v = pcre2_get_ovector_pointer(st->md);
    *begin = v[0];
    *end = v[1];
    return 1;
}

static int run_step(struct walk *w, int step, const char *text, size_t n)
{
    struct step *st = &w->p->step[step];
    size_t at = 0, held = 0, from = 0;        /* held: begin of a piece that waits for its neighbour */

    if (st->prefix_space)
        return run_prefix(w, step, text, n);
    while (at < n) {
        size_t b = 0, e = 0;
        int found = next_match(w, st, text, n, from, &b, &e);

        if (found < 0)
            return found;
        if (!found)
            break;
        if (e == b) {                         /* an empty match cuts nothing: look further */
            from = b + 1;
            while (from < n && ((unsigned char)text[from] & 0xC0) == 0x80)
                from++;
            if (from >= n)
                break;
            continue;
        }
        if (st->behaviour == ISOLATED || (st->behaviour == REMOVED && !st->invert)) {
            HD_TRY(emit(w, step, text + at, b - at));
            if (st->behaviour == ISOLATED)
                HD_TRY(emit(w, step, text + b, e - b));
        } else if (st->behaviour == REMOVED) {
            HD_TRY(emit(w, step, text + b, e - b));
        } else if ((st->behaviour == WITH_PREVIOUS) != st->invert) {
            HD_TRY(emit(w, step, text + at, e - at));
        } else {
            HD_TRY(emit(w, step, text + held, b - held));
            held = b;
        }
        at = from = e;
    }
    if (st->behaviour == REMOVED && st->invert)
        return HD_OK;
    if (st->behaviour >= WITH_PREVIOUS && (st->behaviour == WITH_PREVIOUS) == st->invert)
        at = held;
    return emit(w, step, text + at, n - at);
}

static bool valid_utf8(const char *p, size_t n)
{
    size_t i = 0;

    while (i < n) {
        uint64_t v;
        int len;

        if (n - i >= 8 && (memcpy(&v, p + i, 8), !(v & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        if (hd_utf8_get(p + i, n - i, &len) < 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

int hd_pretoken_run(struct hd_pretoken *p, const char *text, size_t n, hd_word_fn fn, void *arg, struct hd_err *err)
{
    struct walk w = {p, valid_utf8(text, n), fn, arg, err};

    return p->n_step ? n ? run_step(&w, 0, text, n) : HD_OK : n ? fn(arg, text, n, err) : HD_OK;
}
