/* safetensors_write.h: writes a safetensors file, tensor by tensor.
 *
 * Names and shapes are declared first, since the header comes first; then the bytes follow in the same order, in as many
 * pieces as the caller likes. The file appears under its name only when everything is on disk (file.h).
 */
#ifndef HD_WEIGHTS_SAFETENSORS_WRITE_H
#define HD_WEIGHTS_SAFETENSORS_WRITE_H

#include "base/file.h"
#include "base/str.h"
#include "tensor/dtype.h"

struct hd_st_writer {
    struct hd_str header;
    int64_t bytes, written;
    struct hd_out out;
    bool open;
};

void hd_st_writer_init(struct hd_st_writer *w);
/* type must have a safetensors name. */
void hd_st_writer_declare(struct hd_st_writer *w, const char *name, enum hd_dtype type, int n_dim, const int64_t *dim);
int hd_st_writer_begin(struct hd_st_writer *w, const char *path, struct hd_err *err);
void hd_st_writer_data(struct hd_st_writer *w, const void *p, size_t n);
int hd_st_writer_commit(struct hd_st_writer *w, struct hd_err *err);      /* releases w, also on failure */
void hd_st_writer_abort(struct hd_st_writer *w);

#endif
