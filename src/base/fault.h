/* fault.h: trouble on purpose. Tests arm it; in the program it costs one predictable branch a call.
 *
 * hd_fault_arm(HD_FAULT_ALLOC, 5) lets five allocations succeed and makes the sixth and every later one fail until
 * hd_fault_disarm(). The program arms it from HD_FAULT=alloc:N|read:N|write:N so that CLI tests can use it too.
 */
#ifndef HD_BASE_FAULT_H
#define HD_BASE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

enum hd_fault_kind { HD_FAULT_ALLOC, HD_FAULT_READ, HD_FAULT_WRITE, HD_N_FAULT };

extern int64_t hd_fault_left[HD_N_FAULT];     /* calls that still succeed; below zero means not armed */

bool hd_fault_count(enum hd_fault_kind kind); /* the slow half of hd_fault_hit() */
void hd_fault_arm(enum hd_fault_kind kind, int64_t n_ok);
void hd_fault_disarm(void);
bool hd_fault_parse(const char *spec);        /* "alloc:12"; false when malformed */

static inline bool hd_fault_hit(enum hd_fault_kind kind)
{
    return __builtin_expect(__atomic_load_n(&hd_fault_left[kind], __ATOMIC_RELAXED) >= 0, 0) && hd_fault_count(kind);
}

#endif
