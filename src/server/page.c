/* page.c: see page.h. The assembler puts the files in as they are (Makefile: page.o depends on them). */
#include "server/page.h"

#include "base/err.h"

#define EMBED(name, file)                                                                                                       \
    __asm__(".section .rodata\n.global hd_page_" #name "\nhd_page_" #name ":\n.incbin \"src/server/" file "\"\n.global hd_page_" #name "_end\nhd_page_" #name "_end:\n.byte 0\n.text\n"); \
    extern const char hd_page_##name[], hd_page_##name##_end[]

EMBED(html, "page.html");
EMBED(css, "page.css");
EMBED(js, "page.js");
EMBED(openapi, "openapi.yaml");

const struct hd_page_file *hd_page_find(struct hd_view path)
{
    static struct hd_page_file files[] = {{"/", "text/html; charset=utf-8", {0}}, {"/page.css", "text/css; charset=utf-8", {0}}, {"/page.js", "text/javascript; charset=utf-8", {0}},
                                          {"/openapi.yaml", "application/yaml", {0}}};
    const char *const begin[] = {hd_page_html, hd_page_css, hd_page_js, hd_page_openapi}, *const end[] = {hd_page_html_end, hd_page_css_end, hd_page_js_end, hd_page_openapi_end};

    for (int i = 0; i < HD_LEN(files); i++)
        if (hd_view_is(path, files[i].path)) {
            files[i].text = (struct hd_view){begin[i], (size_t)(end[i] - begin[i])};
            return &files[i];
        }
    return NULL;
}
