# The tests. `make check` runs them as a program of a distribution runs the
# library; check-asan and check-tsan run the same programs, sanitized.

TESTS = abi client hostile status threads ctapi
ifeq ($(HAVE_PCSC),1)
TESTS += place ifd ifdpin ifd2
endif
FUZZERS = fuzz_reply fuzz_ctbcs
ifeq ($(HAVE_PCSC),1)
FUZZERS += fuzz_ifd
endif
# How often each fuzz target is run, and from which state of the mutator.
RUNS ?= 200000
SEED ?= 1

TEST_CFLAGS = $(filter-out -fvisibility=hidden,$(CFLAGS)) -Itest -Ilibopenct -Ictapi -Iifd $(PCSC_CFLAGS)

$(BUILD)/test/%.o: test/%.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -MMD -MP -c -o $@ $<

HELPERS = $(BUILD)/test/check.o $(BUILD)/test/fake.o

# Against the shared library, found by its SONAME.
SHARED_TESTS = $(patsubst %,$(BUILD)/test/%,abi client hostile status threads)
$(SHARED_TESTS): %: %.o $(HELPERS) $(BUILD)/libopenct.so.1.0.0
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(HELPERS) -L$(BUILD) -lopenct -Wl,-rpath,$(abspath $(BUILD))

# Loaded as their users load them.
$(BUILD)/test/ctapi: %: %.o $(HELPERS) $(BUILD)/libopenctapi.so
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(HELPERS) -ldl
IFD_HELPERS = $(HELPERS) $(BUILD)/test/ifdhost.o
$(BUILD)/test/ifd $(BUILD)/test/ifdpin: %: %.o $(IFD_HELPERS) $(BUILD)/libopenct-ifd.so
	$(CC) $(CFLAGS) $(LDFLAGS) -rdynamic -o $@ $< $(IFD_HELPERS) -ldl
$(BUILD)/test/place: %: %.o $(HELPERS) $(IFD3_OBJS) $(LIB_OBJS)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^
$(BUILD)/test/ifd2: %: %.o $(HELPERS) $(BUILD)/openct-ifd.so
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(HELPERS) -ldl

# With the parts inside, for the static archive has them all.
FUZZ_MAIN = $(BUILD)/test/fuzz_main.o
$(BUILD)/test/fuzz_reply: $(BUILD)/test/fuzz_reply.o $(FUZZ_MAIN) $(filter-out %/handle.o,$(LIB_OBJS))
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^
$(BUILD)/test/fuzz_ctbcs: $(BUILD)/test/fuzz_ctbcs.o $(FUZZ_MAIN) $(CTAPI_OBJS) $(LIB_OBJS)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^
$(BUILD)/test/fuzz_ifd: $(BUILD)/test/fuzz_ifd.o $(FUZZ_MAIN) $(IFD3_OBJS) $(LIB_OBJS)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^

TEST_PROGRAMS = $(patsubst %,$(BUILD)/test/%,$(TESTS))
FUZZ_PROGRAMS = $(patsubst %,$(BUILD)/test/%,$(FUZZERS))

.PHONY: check-symbols run-tests
# What the library exports is what libopenct.sym lists, no more and no less;
# the modules export their interface; all of libopenct.a is ct_ or oct_. Each
# header can be included alone, in C and C++.
HEADER_FLAGS = -pedantic -Wall -Wextra -Werror -I. -Ilibopenct -Ictapi -fsyntax-only
check-symbols: all
	sed -n 's/^ \([a-z_]*\)@Base.*/\1/p' libopenct/libopenct.sym | LC_ALL=C sort > $(BUILD)/symbols.want
	nm -D --defined-only $(BUILD)/libopenct.so.1.0.0 | awk '{ print $$3 }' | LC_ALL=C sort > $(BUILD)/symbols.got
	diff -u $(BUILD)/symbols.want $(BUILD)/symbols.got
	test "`nm -D --defined-only $(BUILD)/libopenctapi.so | awk '{ print $$3 }' | LC_ALL=C sort | xargs`" = "CT_close CT_data CT_init"
	for h in libopenct/openct/*.h ctapi/openct/*.h; do \
		printf '#include "%s"\nextern int c;\n' $$h > $(BUILD)/header.c; \
		$(CC) -std=c99 $(HEADER_FLAGS) -x c $(BUILD)/header.c && \
		$(CXX) -std=c++98 $(HEADER_FLAGS) -x c++ $(BUILD)/header.c || exit 1; \
	done
	! nm --defined-only $(BUILD)/libopenct.a | awk '$$2 ~ /[A-Z]/ && $$3 !~ /^(ct_|oct_)/' | grep .
	readelf -d $(BUILD)/libopenct.so.1.0.0 | grep -q 'SONAME.*\[libopenct.so.1\]'
	! readelf -d $(BUILD)/libopenct.so.1.0.0 | grep NEEDED | grep -v -e '\[libc\.' -e '\[ld-linux'
	@echo "symbols: as listed"

run-tests: $(TEST_PROGRAMS)
	@set -e; for t in $(TEST_PROGRAMS); do BUILD=$(abspath $(BUILD)) $$t; done

fuzz: $(FUZZ_PROGRAMS)
	@set -e; for t in $(FUZZ_PROGRAMS); do $$t -runs=$(RUNS) -seed=$(SEED); done

check: check-symbols
	$(MAKE) run-tests
	$(MAKE) fuzz RUNS=20000

SANITIZE = HARDEN= LDFLAGS= VERSION=$(VERSION)
check-asan:
	ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(MAKE) BUILD=$(BUILD)/asan $(SANITIZE) \
		CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
		SHARED=-shared run-tests fuzz

# Forked children of a threaded program are part of the tests.
check-tsan:
	TSAN_OPTIONS=die_after_fork=0:halt_on_error=1 \
	$(MAKE) BUILD=$(BUILD)/tsan $(SANITIZE) CFLAGS="-O1 -g -fsanitize=thread" SHARED=-shared run-tests

# Not a test: see bench.c.
.PHONY: bench
bench: $(BUILD)/test/bench
$(BUILD)/test/bench: test/bench.c $(BUILD)/libopenct.so.1.0.0
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) $(if $(HAVE_PCSC),-DHAVE_PCSC) $(LDFLAGS) -o $@ $< -L$(BUILD) -lopenct \
		-Wl,-rpath,$(abspath $(BUILD)) $(if $(HAVE_PCSC),-lpcsclite)

# The same fuzz targets for libFuzzer: make libfuzzer CLANG=clang-14, then
# $(BUILD)/libfuzzer/fuzz_reply -max_len=6000 -max_total_time=60.
CLANG ?= clang
LIBFUZZER = $(patsubst %,$(BUILD)/libfuzzer/%,$(FUZZERS))
.PHONY: libfuzzer
libfuzzer: $(LIBFUZZER)
$(BUILD)/libfuzzer/fuzz_reply: SOURCES = $(filter-out %/handle.c,$(wildcard libopenct/*.c))
$(BUILD)/libfuzzer/fuzz_ctbcs: SOURCES = $(wildcard libopenct/*.c ctapi/*.c)
$(BUILD)/libfuzzer/fuzz_ifd: SOURCES = $(filter-out ifd/ifd2.c,$(wildcard libopenct/*.c ifd/*.c))
$(LIBFUZZER): $(BUILD)/libfuzzer/%: test/%.c $(wildcard libopenct/*.[ch] ctapi/*.[ch] ifd/*.[ch])
	@mkdir -p $(@D)
	$(CLANG) -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		-pthread -Itest -Ilibopenct -Ictapi -Iifd $(PCSC_CFLAGS) -o $@ $< $(SOURCES)
