/* grammar.h: what may be written, byte by byte: rules that call one another, each an automaton over bytes.
 *
 * A rule has one entry and one exit. Edges take a byte of a range, nothing, or a whole other rule. hd_grammar_finish() drops what can never
 * be completed and works out how deep each state still has to go: a walk (grammar_mask.h) that keeps to this never comes to a dead end.
 *
 * Errors   kept inside while building (memory, HD_GRAMMAR_STATES, HD_GRAMMAR_EDGES): additions do nothing from then on, finish reports
 * Threads  built by one; read by any. The last release frees it.
 */
#ifndef HD_SAMPLE_GRAMMAR_H
#define HD_SAMPLE_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define HD_GRAMMAR_STATES (1 << 17)
#define HD_GRAMMAR_EDGES (1 << 19)
#define HD_GRAMMAR_DEPTH 192          /* rules inside one another */

/* Symbols are bytes and, from HD_EDGE_MARKER on, a grammar's markers: tokens that no bytes spell. */
enum { HD_EDGE_MARKER = 256, HD_EDGE_NOTHING = 300, HD_EDGE_CALL };
#define HD_GRAMMAR_MARKERS 8

struct hd_grammar_edge {
    uint16_t lo, hi;                  /* of symbols; lo HD_EDGE_NOTHING or CALL: none */
    uint32_t to, rule;                /* rule: CALL's */
};

struct hd_grammar_rule {
    uint32_t entry, exit;
    bool plain;                       /* one character; all that HD_TOKEN_PLAIN is made of (json_vocab.h) are among them */
};

struct hd_grammar {
    int refs;
    bool failed, no_memory;
    uint32_t n_state, n_edge, n_rule;
    size_t cap_from, cap_edge, cap_rule;
    uint32_t *from;                   /* while building: of each edge */
    struct hd_grammar_edge *edge;     /* when finished, sorted by state */
    struct hd_grammar_rule *rule;
    int32_t marker[HD_GRAMMAR_MARKERS];           /* their ids */
    int n_marker;
    uint32_t root;
    uint32_t *first;                  /* finished: [n_state + 1] into edge */
    uint8_t *need;                    /* finished: how many rules deep the way to the exit leads at least */
    bool *exit;
    uint32_t *plain;                  /* finished: at a plain rule's entry its exit, else 0 */
};

struct hd_grammar *hd_grammar_create(void);           /* NULL: no memory */
void hd_grammar_hold(struct hd_grammar *g);
void hd_grammar_release(struct hd_grammar *g);        /* NULL is fine */

uint32_t hd_grammar_state(struct hd_grammar *g);
uint32_t hd_grammar_rule(struct hd_grammar *g);       /* an empty one */
void hd_grammar_bytes(struct hd_grammar *g, uint32_t from, int lo, int hi, uint32_t to);
void hd_grammar_marker(struct hd_grammar *g, uint32_t from, int32_t id, uint32_t to);
void hd_grammar_skip(struct hd_grammar *g, uint32_t from, uint32_t to);
void hd_grammar_call(struct hd_grammar *g, uint32_t from, uint32_t rule, uint32_t to);
/* Text from a state to the one that is returned, and to one that is there. */
uint32_t hd_grammar_text(struct hd_grammar *g, uint32_t from, const char *p, size_t n);
void hd_grammar_text_to(struct hd_grammar *g, uint32_t from, const char *p, size_t n, uint32_t to);
/* One code point of lo to hi, in UTF-8; surrogates are left out. */
void hd_grammar_utf8(struct hd_grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to);

/* Errors: MEMORY, LIMIT, UNSUPPORTED (nothing can be written, or only deeper than HD_GRAMMAR_DEPTH). */
int hd_grammar_finish(struct hd_grammar *g, uint32_t root, struct hd_err *err);

#endif
