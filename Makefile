# OpenCT in Go.
#
#	make demo       a virtual token, served and used (needs nothing but Go)
#	make test       the tests: vet, gofmt, staticcheck, go test -race, C library
#	make e2e        Debian in a virtual machine: udev, systemd, USB; E2E='TestE2E$/^(plug|stop)$' picks cases
#	make build      everything there is to make, in build/
#	make install    [DESTDIR=] [PREFIX=/usr/local] [SYSCONFDIR=/etc]
#	make deb rpm    packages, in build/deb and build/rpm
#	make dist       the release as a tarball with all that it is built from, in build/dist; dist-check builds it offline
#	make cross      vet and build for every architecture, without C
#	make check-packaging  what packaging/ has for other distributions
#	make bench fuzz measurements; fuzzing, FUZZTIME=5m each target

VERSION    := 0.8.0
PREFIX     ?= /usr/local
SBINDIR    ?= $(PREFIX)/sbin
BINDIR     ?= $(PREFIX)/bin
SYSCONFDIR ?= /etc
MANDIR     ?= $(PREFIX)/share/man
# systemd and udev look below /usr/local/lib as well. Debian 12 still wants
# its own packages to use /lib: UNITDIR and RULESDIR say so in packaging/debian.
UNITDIR    ?= $(PREFIX)/lib/systemd/system
RULESDIR   ?= $(PREFIX)/lib/udev/rules.d
DOCDIR     ?= $(PREFIX)/share/doc/openct
# systemd runs what is here when it reads its units.
GENERATORDIR ?= $(UNITDIR)-generators
FUZZTIME   ?= 30s
E2E        ?= .

# Installs Debian packages that are missing; DEPS=true installs nothing.
DEPS        ?= scripts/deps
GO          ?= go
# The oldest Go that builds everything is what go.mod says first. The tests need
# the later one that it says as well, which Go fetches unless it is told not to.
LOCAL_GO    := GOTOOLCHAIN=$(or $(GOTOOLCHAIN),local) $(GO)
ARCHS       := amd64 arm64 arm 386 riscv64 mips mipsle
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.6.1
# The names that openct answers to, and where they are.
SBIN_NAMES  := openct-control ifdhandler ifdproxy
BIN_NAMES   := openct-tool
# Position-independent executables are relocated at each start. That takes time (in an
# emulated machine half of that until a token is served), and memory that no two handlers
# share. C's libraries stay position-independent. GOFLAGS=-buildmode=pie makes such
# executables all the same.
GO_LDFLAGS  := -s -w -X openct/internal/cli.Version=$(VERSION) -X openct/internal/cli.ConfigFile=$(SYSCONFDIR)/openct.conf

.PHONY: all build commands compat demo test lint unit cross e2e bench fuzz install deb rpm dist dist-check check-packaging generate clean

all: build

build: commands compat

commands:
	@$(DEPS) build
	$(LOCAL_GO) build -trimpath -ldflags '$(GO_LDFLAGS)' -o build/ ./cmd/openct ./cmd/openct-vtoken
	for name in $(SBIN_NAMES) $(BIN_NAMES); do ln -sf openct build/$$name || exit 1; done

compat:
	@$(DEPS) build
	$(MAKE) -C compat VERSION=$(VERSION)

demo:
	@$(DEPS) demo
	@$(MAKE) --no-print-directory commands
	@scripts/demo build

test: lint unit
	$(MAKE) -C compat check VERSION=$(VERSION)

lint:
	@$(DEPS) test
	@unformatted=$$(find . -name vendor -prune -o -path ./build -prune -o -name '*.go' -print | xargs gofmt -l); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

unit:
	@$(DEPS) test
	$(GO) test -race ./...

# Programs that are built without C find no USB devices (internal/usb/gousbdev).
cross:
	for arch in $(ARCHS); do \
		echo "$$arch"; CGO_ENABLED=0 GOARCH=$$arch $(GO) vet ./... && CGO_ENABLED=0 GOARCH=$$arch $(GO) build ./... || exit 1; done

# Beside the packages, what "make install" makes of an installation like C
# OpenCT's own in /usr/local, whose openct.conf is there already.
e2e: deb
	@$(DEPS) e2e
	rm -rf build/local && install -D -m 644 test/vm/testdata/local.conf build/local/usr/local/etc/openct.conf
	$(MAKE) install DESTDIR=$(CURDIR)/build/local PREFIX=/usr/local SYSCONFDIR=/usr/local/etc
	$(GO) test -tags vm -count=1 -v -timeout 60m -run '$(value E2E)' ./test/vm

# An openct.conf that is there is kept; the new one goes beside it. The group must
# be there before udev sees the rule that names it.
install: build
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(SYSCONFDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(GENERATORDIR) $(DESTDIR)$(RULESDIR) \
		$(DESTDIR)$(PREFIX)/lib/sysusers.d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d
	[ -n "$(DESTDIR)" ] || scripts/make-users
	install build/openct build/openct-vtoken $(DESTDIR)$(SBINDIR)
	for name in $(SBIN_NAMES); do ln -sf openct $(DESTDIR)$(SBINDIR)/$$name || exit 1; done
	for name in $(BIN_NAMES); do ln -srf $(DESTDIR)$(SBINDIR)/openct $(DESTDIR)$(BINDIR)/$$name || exit 1; done
	ln -sf $(SBINDIR)/openct $(DESTDIR)$(GENERATORDIR)/openct-generator
	if [ -e $(DESTDIR)$(SYSCONFDIR)/openct.conf ]; then new=.new; fi; \
		install -m 644 etc/openct.conf $(DESTDIR)$(SYSCONFDIR)/openct.conf$$new
	for unit in systemd/*.service; do \
		sed 's|/usr/sbin/|$(SBINDIR)/|' $$unit >build/unit && install -m 644 build/unit $(DESTDIR)$(UNITDIR)/$${unit#*/} || exit 1; done
	sed 's|/usr/sbin/|$(SBINDIR)/|' udev/60-openct.rules >build/unit && install -m 644 build/unit $(DESTDIR)$(RULESDIR)/60-openct.rules
	install -m 644 sysusers.d/openct.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/openct.conf
	install -m 644 tmpfiles.d/openct.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/openct.conf
	for page in $(wildcard man/*.[1-8]); do \
		install -D -m 644 $$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$${page#man/} || exit 1; done
	for shell in bash/bash-completion/completions zsh/zsh/site-functions fish/fish/vendor_completions.d; do \
		for file in completions/$${shell%%/*}/*; do \
			install -D -m 644 $$file $(DESTDIR)$(PREFIX)/share/$${shell#*/}/$${file##*/} || exit 1; done; done
	install -d $(DESTDIR)$(DOCDIR)
	install -m 644 doc/no-systemd.md $(DESTDIR)$(DOCDIR)/no-systemd.md
	cd packaging && for file in openrc/openct.initd openrc/openct.confd runit/openct/run runit/openct/finish mdev/openct.mdev \
		udev/61-openct-no-systemd.rules busybox/S70openct systemd/openct-line@.service; do \
		sed 's|/usr/sbin/|$(SBINDIR)/|;s|/etc/openct.conf|$(SYSCONFDIR)/openct.conf|' $$file >../build/example && \
		install -D -m $$([ -x $$file ] && echo 755 || echo 644) ../build/example $(DESTDIR)$(DOCDIR)/examples/$$file || exit 1; done
	$(MAKE) -C compat install VERSION=$(VERSION) DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) UNITDIR=$(UNITDIR)

deb:
	@$(DEPS) deb
	packaging/deb $(VERSION)

rpm:
	@$(DEPS) rpm
	packaging/rpm $(VERSION)

dist:
	packaging/dist $(VERSION)

dist-check: dist
	@$(DEPS) build
	GO=$(GO) packaging/dist-check $(VERSION)

check-packaging:
	@$(DEPS) packaging
	packaging/check

bench:
	@$(DEPS) test
	$(GO) test -run '^$$' -bench . -benchmem ./...

fuzz:
	@$(DEPS) test
	GO=$(GO) scripts/fuzz $(FUZZTIME)
	$(MAKE) -C compat fuzz

generate:
	$(GO) generate ./...

clean:
	rm -rf build
