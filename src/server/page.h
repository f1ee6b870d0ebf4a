/* page.h: the files that are part of the program: the web page, and the description of its interface. */
#ifndef HD_SERVER_PAGE_H
#define HD_SERVER_PAGE_H

#include "base/str.h"

struct hd_page_file {
    const char *path, *type;
    struct hd_view text;
};

/* NULL: there is none. */
const struct hd_page_file *hd_page_find(struct hd_view path);

#endif
