/* fault.c: see fault.h. */
#include "base/fault.h"

#include <stdlib.h>
#include <string.h>

int64_t hd_fault_left[HD_N_FAULT] = {-1, -1, -1};

bool hd_fault_count(enum hd_fault_kind kind)
{
    int64_t left = __atomic_load_n(&hd_fault_left[kind], __ATOMIC_RELAXED);

    while (left > 0)
        if (__atomic_compare_exchange_n(&hd_fault_left[kind], &left, left - 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return false;
    return left == 0;
}

void hd_fault_arm(enum hd_fault_kind kind, int64_t n_ok)
{
    __atomic_store_n(&hd_fault_left[kind], n_ok, __ATOMIC_RELAXED);
}

void hd_fault_disarm(void)
{
    for (int i = 0; i < HD_N_FAULT; i++)
        hd_fault_arm((enum hd_fault_kind)i, -1);
}

bool hd_fault_parse(const char *spec)
{
    static const char *const names[HD_N_FAULT] = {"alloc:", "read:", "write:"};
    char *end;

    for (int i = 0; i < HD_N_FAULT; i++) {
        size_t n = strlen(names[i]);

        if (strncmp(spec, names[i], n))
            continue;
        long long v = strtoll(spec + n, &end, 10);
        if (end == spec + n || *end || v < 0)
            return false;
        hd_fault_arm((enum hd_fault_kind)i, v);
        return true;
    }
    return false;
}
