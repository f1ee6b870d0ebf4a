# hadal: plain GNU make. `make run` and `make check` do everything; `make help` lists the rest.
#
# B=release|debug|asan|ubsan|tsan|cov picks a variant; each lives in build/$(B), side by side. The file name is the build
# rule: FOO_avx2.c is compiled with AVX2 flags because of its name, FOO_neon.c only on aarch64.

B      ?= release
ifeq ($(origin CC),default)
CC     := gcc
endif
OUT    := build/$(B)
PKGS   := jansson libpcre2-8 libutf8proc libedit libevent_core libevent_pthreads sqlite3
ARCH   := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))

CFLAGS_release := -O2 -g
CFLAGS_debug   := -O0 -g3
CFLAGS_asan    := -O1 -g -fsanitize=address -fno-omit-frame-pointer
CFLAGS_ubsan   := -O1 -g -fsanitize=undefined
CFLAGS_tsan    := -O1 -g -fsanitize=thread
CFLAGS_cov     := -O0 -g --coverage
CFLAGS_emulate := -O2 -g -DHD_EMULATE -Wno-psabi
CFLAGS_aarch64 := -O2 -g -static
ifeq ($(CFLAGS_$(B)),)
$(error B=$(B): one of release debug asan ubsan tsan cov emulate aarch64 expected)
endif

# No -ffast-math, and no contraction of a*b+c either: where an FMA is wanted, the code says fma.
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-unused-parameter
override CFLAGS := -std=gnu11 $(WARN) $(CFLAGS_$(B)) -ffp-contract=off -fno-math-errno -pthread $(CFLAGS)
override CPPFLAGS := -Isrc -Iinclude -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS) 2>/dev/null) $(CPPFLAGS)
LDLIBS  := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -lpthread

# V=1 shows the commands.
Q       := $(if $(V),,@)
SAY     := @$(if $(V),:,echo)

isa = $(lastword $(subst _, ,$(basename $(notdir $(1)))))
ISA_avx2       := -mavx2 -mfma -mf16c
ISA_avx512     := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd -mavx2 -mfma -mf16c
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_avx512bf16 := $(ISA_avx512vnni) -mavx512bf16 -mavx512vbmi
ISA_amx        := $(ISA_avx512vnni) -mamx-tile -mamx-int8
ifeq ($(B),emulate)                   # every x86 level through SIMDe, on any CPU
ISA_avx2       :=
ISA_avx512     :=
ISA_avx512vnni :=
ISA_avx512bf16 :=
ISA_amx        :=
endif
ISA_neon       := $(if $(filter aarch64,$(ARCH)),-march=armv8.2-a+dotprod)

FOREIGN := $(if $(filter x86_64,$(ARCH)),%_neon.c,$(if $(filter aarch64,$(ARCH)),%_avx2.c %_avx512.c %_avx512vnni.c %_avx512bf16.c %_amx.c,%_neon.c %_avx2.c %_avx512.c %_avx512vnni.c %_avx512bf16.c %_amx.c))
SRC     := $(filter-out $(FOREIGN),$(sort $(shell find src -name '*.c' 2>/dev/null)))
LIB_OBJ := $(patsubst %.c,$(OUT)/%.o,$(filter-out src/cli/%,$(SRC)))
CLI_OBJ := $(patsubst %.c,$(OUT)/%.o,$(filter src/cli/%,$(SRC)))
TESTS   := $(patsubst tests/%.c,$(OUT)/tests/%,$(sort $(wildcard tests/unit/test_*.c)))
CHECKS  := $(patsubst tests/%.c,$(OUT)/tests/%,$(sort $(wildcard tests/check*.c)))
REF_OBJ := $(patsubst %.c,$(OUT)/%.o,$(sort $(wildcard ref/*.c)))
REF     := $(OUT)/ref/ref
EXAMPLES := $(patsubst examples/%.c,$(OUT)/examples/%,$(sort $(wildcard examples/*.c)))
BIN     := $(OUT)/hadal
LIB     := $(OUT)/libhadal.a

.DEFAULT_GOAL := all
.PHONY: check-clients golden-report checkkern all lib ref run check check-all bench deps deps-dev lint clean help print-bin tests man install ready model
all: $(BIN)
lib: $(LIB)
ref: $(REF)
tests: $(TESTS) $(CHECKS) $(EXAMPLES) $(REF)
print-bin:
	@echo $(BIN)

# ---- the two commands ----
# Both start a second make after installing what was missing, because the flags above ask pkg-config.
AGAIN := $(MAKE) --no-print-directory
P     ?= Tell me a story about a boy named Sam and a red kite.
M     ?= models/nano

run:
	@sh tools/deps.sh $(if $(filter models/cache/%,$(M)),check,run)
	@$(AGAIN) -s all
	@sh tools/run.sh $(BIN) "$(M)" "$(P)"
check:
	@sh tools/deps.sh check
	@$(AGAIN) -s all tests
	@sh tools/fetch_model.sh
	@sh tests/run.sh $(OUT)

# What check does, under every sanitizer, with the fuzz corpora, the emulated ISA levels and the long equalities.
check-all:
	@sh tools/deps.sh check-all
	@$(AGAIN) -s lint
	@sh tools/fetch_model.sh
	@sh tests/all.sh

# Real client libraries and agents from PyPI and npm, each against a scripted server.
check-clients:
	@sh tools/deps.sh check-clients
	@$(AGAIN) -s all
	@sh tests/clients/run.sh $(OUT)

bench: all
	@sh tools/deps.sh check
	@sh tools/fetch_model.sh
	$(BIN) bench models/cache/SmolLM2-135M-Instruct.Q4_1.gguf

deps:
	@sh tools/deps.sh run
deps-dev:
	@sh tools/deps.sh check-all
lint:
	@sh tools/lint.sh
# The table of docs/conformance.md.
golden-report:
	@sh tools/deps.sh check
	@$(AGAIN) -s all $(OUT)/tests/golden_report
	@$(OUT)/tests/golden_report
help:
	@echo 'make run        install what is missing, build, and let the bundled model answer (P="..." asks something else)'
	@echo 'make run M=models/cache/SmolLM2-135M-Instruct.Q4_1.gguf  the same with a larger model, fetched once (98 MB)'
	@echo 'make check      the same, then the tests; the last line is: N passed, N failed'
	@echo 'make check-all  check under address, undefined-behaviour and thread sanitizers, fuzz corpora, emulated ISA levels'
	@echo 'make check-clients  openai, anthropic, litellm, langchain, ai-sdk, lm-eval, schemathesis, Claude Code, Codex, opencode, Chromium, nginx against a scripted server'
	@echo 'make            build the program: $(BIN)'
	@echo 'make ref        the plain double-precision reference: $(REF)'
	@echo 'make bench      prefill and decode of SmolLM2-135M with their share of the roofline'
	@echo 'make golden-report  every golden checkpoint against its reference, in one table'
	@echo 'make lint       layers, names, whitespace'
	@echo 'make install    program, library, header, man pages, completion under PREFIX (default /usr/local), DESTDIR respected'
	@echo 'make clean      remove build/'
	@echo 'B=debug|asan|ubsan|tsan|cov builds a variant beside the release; CC=... another compiler'

# ---- install ----
PREFIX ?= /usr/local
CMDS   := run serve usage logits tokenize inspect pack bench train eval doctor
man: $(BIN)
	@mkdir -p $(OUT)/man
	@$(BIN) man > $(OUT)/man/hadal.1
	@for c in $(CMDS); do $(BIN) man $$c > $(OUT)/man/hadal-$$c.1 || exit 1; done
install: $(BIN) $(LIB) man
	install -D -m755 $(BIN) $(DESTDIR)$(PREFIX)/bin/hadal
	install -D -m644 $(LIB) $(DESTDIR)$(PREFIX)/lib/libhadal.a
	install -D -m644 include/hadal.h $(DESTDIR)$(PREFIX)/include/hadal.h
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m644 $(OUT)/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	$(BIN) completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hadal
	$(BIN) completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_hadal

# ---- building ----

$(OUT)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(ISA_$(call isa,$<)) -MMD -MP -c $< -o $@
$(LIB): $(LIB_OBJ)
	@rm -f $@
	$(SAY) AR $@
	$(Q)$(AR) rcs $@ $^
$(BIN): $(CLI_OBJ) $(LIB)
	$(SAY) LD $@
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
# The page is part of the program (.incbin, which -MMD does not see).
$(OUT)/src/server/page.o: src/server/page.html src/server/page.css src/server/page.js src/server/openapi.yaml
# Kernels and number formats alone: what a cross compiler without libraries can build.
CORE_OBJ := $(filter $(OUT)/src/kernels/% $(OUT)/src/tensor/% $(OUT)/src/base/err.o,$(LIB_OBJ))
$(OUT)/tests/checkkern: tests/checkkern.c $(CORE_OBJ) Makefile
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $< $(CORE_OBJ) -o $@ -lm -lpthread
checkkern: $(OUT)/tests/checkkern
# The reference sees nothing of src/ or include/.
$(OUT)/ref/%.o: ref/%.c Makefile
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) -Iref $(filter-out -Isrc -Iinclude,$(CPPFLAGS)) $(CFLAGS) -MMD -MP -c $< -o $@
$(REF): $(REF_OBJ)
	$(SAY) LD $@
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
# Whole-model gradients are compared with differences of the reference.
$(OUT)/tests/unit/test_grad: $(filter-out %/ref_main.o,$(REF_OBJ))
$(OUT)/examples/%: examples/%.c $(LIB) Makefile
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) -Iinclude $(CFLAGS) -MMD -MP $< $(LIB) -o $@ $(LDLIBS)
$(OUT)/tests/%: tests/%.c $(LIB) Makefile
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) $(CPPFLAGS) -Itests $(CFLAGS) -MMD -MP $< $(filter %.o,$^) $(LIB) -o $@ -lcmocka $(LDLIBS)

clean:
	rm -rf build

-include $(shell find $(OUT) -name '*.d' 2>/dev/null || true)
