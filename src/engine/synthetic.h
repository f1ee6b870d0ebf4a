/* synthetic.h: checkpoints of random weights, in the formats that a config publishes: for measuring speed where no real one fits.
 *
 * Matrices have a standard deviation of 1/sqrt(columns), norms are about 1, biases and sinks near 0, hash tables name distinct experts;
 * the same config gives the same bytes.
 */
#ifndef HD_ENGINE_SYNTHETIC_H
#define HD_ENGINE_SYNTHETIC_H

#include "base/err.h"

/* The config.json of a named shape, NULL when there is none of that name. */
const char *hd_synthetic_shape(const char *name);
/* "v4f-L6E16, v4-tiny1m, ..." */
const char *hd_synthetic_names(void);

/* config_json into DIR/config.json, its weights into DIR/model.safetensors. DIR must exist. Errors: FORMAT, IO, MEMORY. */
int hd_synthetic_write(const char *config_json, const char *dir, struct hd_err *err);
/* Removes what hd_synthetic_write() wrote, and DIR if it is then empty. */
void hd_synthetic_remove(const char *dir);

#endif
