/* tb_events.h: curves as TensorBoard reads them: a file of events, each a step and some named numbers.
 *
 * Format   a record is u64 length, u32 masked crc32c of those 8 bytes, the bytes, u32 masked crc32c of them; mask(c) = (c >> 15 | c << 17) + 0xa282ead8.
 *          The bytes are a protobuf: 1 double wall_time, 2 int64 step, 3 string file_version (the first record), 5 Summary {1: Value {1 string tag,
 *          2 float simple_value}}
 * Source   TensorFlow's record_writer and event.proto */
#ifndef HD_TRAIN_TB_EVENTS_H
#define HD_TRAIN_TB_EVENTS_H

#include <stdint.h>

#include "base/str.h"

void hd_tb_begin(struct hd_str *out, double wall_time);
void hd_tb_scalar(struct hd_str *out, double wall_time, int64_t step, const char *tag, float value);
uint32_t hd_crc32c(const void *p, size_t n);

#endif
