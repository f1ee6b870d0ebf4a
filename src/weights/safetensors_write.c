/* safetensors_write.c: see safetensors_write.h. */
#include "weights/safetensors_write.h"

#include <string.h>

void hd_st_writer_init(struct hd_st_writer *w)
{
    memset(w, 0, sizeof *w);
    hd_str_init(&w->header, (size_t)100 << 20);
    hd_str_puts(&w->header, "{");
}

void hd_st_writer_declare(struct hd_st_writer *w, const char *name, enum hd_dtype type, int n_dim, const int64_t *dim)
{
    int64_t n = hd_dtypes[type].block_bytes;

    HD_ASSERT(hd_dtypes[type].safetensors && !w->open);
    if (w->header.n > 1)
        hd_str_putc(&w->header, ',');
    hd_str_json(&w->header, name, strlen(name));
    hd_str_printf(&w->header, ":{\"dtype\":\"%s\",\"shape\":[", hd_dtypes[type].safetensors);
    for (int i = 0; i < n_dim; i++) {
        hd_str_printf(&w->header, "%s%lld", i ? "," : "", (long long)dim[i]);
        n *= dim[i];
    }
    hd_str_printf(&w->header, "],\"data_offsets\":[%lld,%lld]}", (long long)w->bytes, (long long)(w->bytes + n));
    w->bytes += n;
}

int hd_st_writer_begin(struct hd_st_writer *w, const char *path, struct hd_err *err)
{
    unsigned char len[8];
    int rc;

    hd_str_putc(&w->header, '}');
    while (w->header.n % 8 && !w->header.failed)
        hd_str_putc(&w->header, ' ');
    if (w->header.failed) {
        hd_st_writer_abort(w);
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the header", path);
    }
    if ((rc = hd_out_open(&w->out, path, err)) < 0) {
        hd_st_writer_abort(w);
        return rc;
    }
    w->open = true;
    for (int i = 0; i < 8; i++)
        len[i] = (unsigned char)((uint64_t)w->header.n >> (8 * i));
    hd_out_write(&w->out, len, 8);
    hd_out_write(&w->out, w->header.s, w->header.n);
    return HD_OK;
}

void hd_st_writer_data(struct hd_st_writer *w, const void *p, size_t n)
{
    w->written += (int64_t)n;
    hd_out_write(&w->out, p, n);
}

int hd_st_writer_commit(struct hd_st_writer *w, struct hd_err *err)
{
    int rc;

    HD_ASSERT(w->open && w->written == w->bytes);
    rc = hd_out_commit(&w->out, err);
    w->open = false;
    hd_st_writer_abort(w);
    return rc;
}

void hd_st_writer_abort(struct hd_st_writer *w)
{
    if (w->open)
        hd_out_abort(&w->out);
    hd_str_release(&w->header);
    memset(w, 0, sizeof *w);
}
