/* replay.h: turns as the model said them, for when they come back in a history.
 *
 * Clients do not hand back what they got: they write arguments anew (1.0 becomes 1, spaces go), lose the reasoning, trim newlines. Rendered
 * from that, the next prompt would differ from what the cache holds. Every call gets a random id; when a history names it, and what it says
 * still means the same, the exact turn is put in its place: its reasoning, its arguments, and in the end its token ids.
 *
 * Turns without calls are known by their text behind the same conversation (a chain of hashes): what a model has sampled need not be how the tokenizer
 * would cut its text. They are kept in memory only.
 *
 * A turn is only found by the tenant that it was said to. The oldest ones go when there are too many.
 *
 * Threads  any, one at a time: there is a lock
 */
#ifndef HD_SERVER_REPLAY_H
#define HD_SERVER_REPLAY_H

#include "base/json.h"
#include "token/chat.h"
#include "token/token.h"

struct hd_replay;
struct hd_choice;

struct hd_replay_turn {
    char *tenant, *reasoning, *content;
    json_t *calls;                    /* [{"id", "name", "arguments"}] */
    char key[20];                     /* without calls: what it is found by */
    struct hd_ids ids;
    bool thought;                     /* the prompt had opened its reasoning */
    size_t bytes;
    uint64_t number;                  /* of its file (replay_disk.h); 0: none */
};

/* A turn in a history; a copy of what is needed of it. */
struct hd_replay_spot {
    struct hd_ids ids;
    bool thought;
    char *text;                       /* what it is rendered to, between: */
    size_t n_lead, n_tail;            /* bytes of text that belong to the prompt around it */
};
void hd_replay_spot_release(struct hd_replay_spot *spot);

/* dir: turns are kept in files there too, and those that are there are known at once; NULL: in memory only. Errors: IO, MEMORY. */
int hd_replay_create(struct hd_replay **out, const char *dir, const struct hd_tokenizer *tok, struct hd_err *err);
void hd_replay_free(struct hd_replay *r);

void hd_replay_clear(struct hd_replay *r);           /* the files too */

/* The chain of the messages up to and with this one. */
uint64_t hd_replay_chain(uint64_t chain, const json_t *message);

/* Keeps the turn; where there is no memory, it does not. */
void hd_replay_keep(struct hd_replay *r, const char *tenant, const struct hd_choice *c);

/* The turn that an assistant's message of a history is, behind messages of that chain; then reasoning, content and arguments in the message are the turn's. false: none is. */
bool hd_replay_restore(struct hd_replay *r, const char *tenant, uint64_t chain, json_t *message, struct hd_replay_spot *out);

/* Finds what the message of a turn is rendered to: spot->text, NULL where that cannot be told, or the turn was said in another mode. A turn without calls
 * could be anybody's words: its header and its end token are part of the text. */
void hd_replay_text(const struct hd_tokenizer *t, struct hd_replay_spot *spot, const json_t *message, const char *thinking);

/* Ids of a rendered prompt. Where the spots, in order, are found in it, the turns' own ids are taken. *n_exact counts them. */
int hd_replay_ids(struct hd_tokenizer *t, const struct hd_chat_text *c, const struct hd_replay_spot *spot, int n_spot, struct hd_ids *out, int *n_exact, struct hd_err *err);

#endif
