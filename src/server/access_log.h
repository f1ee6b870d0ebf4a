/* access_log.h: a line of JSON for each request: what it used and how it ended, never what it said. */
#ifndef HD_SERVER_ACCESS_LOG_H
#define HD_SERVER_ACCESS_LOG_H

#include "server/ledger.h"

/* user: hashed to 8 digits, or "". A line that cannot be written is dropped. */
void hd_log_record(int fd, const struct hd_record *r, const char *user);
/* A request that no model has seen. */
void hd_log_request(int fd, const char *id, const char *key, const char *path, int status, double seconds);

#endif
