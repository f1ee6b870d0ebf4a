# hadal: plain GNU make. `make run` and `make check` do everything; `make help` lists the rest.
#
# B=release|debug|asan|ubsan|tsan|cov picks a variant; each lives in build/$(B), side by side. The file name is the build
# rule: FOO_avx2.c is compiled with AVX2 flags because of its name, FOO_neon.c only on aarch64.

B      ?= release
CC     ?= gcc
OUT    := build/$(B)
PKGS   := jansson libpcre2-8 libutf8proc libedit
ARCH   := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))

CFLAGS_release := -O2 -g
CFLAGS_debug   := -O0 -g3
CFLAGS_asan    := -O1 -g -fsanitize=address -fno-omit-frame-pointer
CFLAGS_ubsan   := -O1 -g -fsanitize=undefined -fno-sanitize-recover=undefined
CFLAGS_tsan    := -O1 -g -fsanitize=thread
CFLAGS_cov     := -O0 -g --coverage
ifeq ($(CFLAGS_$(B)),)
$(error B=$(B): one of release debug asan ubsan tsan cov expected)
endif

# No -ffast-math, and no contraction of a*b+c either: where an FMA is wanted, the code says fma.
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-unused-parameter
override CFLAGS := -std=gnu11 $(WARN) $(CFLAGS_$(B)) -ffp-contract=off -fno-math-errno -pthread $(CFLAGS)
override CPPFLAGS := -Isrc -Iinclude -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS) 2>/dev/null) $(CPPFLAGS)
LDLIBS  := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -lpthread

isa = $(lastword $(subst _, ,$(basename $(notdir $(1)))))
ISA_avx2       := -mavx2 -mfma -mf16c
ISA_avx512     := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd -mavx2 -mfma -mf16c
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_neon       := $(if $(filter aarch64,$(ARCH)),-march=armv8.2-a+dotprod)

FOREIGN := $(if $(filter x86_64,$(ARCH)),%_neon.c,$(if $(filter aarch64,$(ARCH)),%_avx2.c %_avx512.c %_avx512vnni.c,%_neon.c %_avx2.c %_avx512.c %_avx512vnni.c))
SRC     := $(filter-out $(FOREIGN),$(sort $(shell find src -name '*.c' 2>/dev/null)))
LIB_OBJ := $(patsubst %.c,$(OUT)/%.o,$(filter-out src/cli/%,$(SRC)))
CLI_OBJ := $(patsubst %.c,$(OUT)/%.o,$(filter src/cli/%,$(SRC)))
TESTS   := $(patsubst tests/%.c,$(OUT)/tests/%,$(sort $(wildcard tests/unit/test_*.c)))
BIN     := $(OUT)/hadal
LIB     := $(OUT)/libhadal.a

.DEFAULT_GOAL := all
.PHONY: all run check check-all deps lint clean help print-bin tests
all: $(BIN)
tests: $(TESTS)
print-bin:
	@echo $(BIN)

$(OUT)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(ISA_$(call isa,$<)) -MMD -MP -c $< -o $@
$(LIB): $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^
$(BIN): $(CLI_OBJ) $(LIB)
	$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
CHECKS := $(OUT)/tests/checkops
$(OUT)/tests/%: tests/%.c $(LIB) Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests $(CFLAGS) -MMD -MP $< $(LIB) -o $@ -lcmocka $(LDLIBS)

clean:
	rm -rf build

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
