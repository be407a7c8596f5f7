# OpenCT in Go.
#
#	make demo       a virtual token, served and used (needs nothing but Go)
#	make test       the tests: vet, gofmt, staticcheck, go test -race, C library
#	make e2e        Debian in a virtual machine: udev, systemd, USB
#	make build      everything there is to make, in build/
#	make install    [DESTDIR=] [PREFIX=/usr/local] [SYSCONFDIR=/etc]
#	make deb rpm    packages, in build/packages
#	make bench fuzz measurements; fuzzing, FUZZTIME=5m each target

VERSION    := 0.7.0
PREFIX     ?= /usr/local
SBINDIR    ?= $(PREFIX)/sbin
BINDIR     ?= $(PREFIX)/bin
SYSCONFDIR ?= /etc
FUZZTIME   ?= 30s

GO          ?= go
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.6.1
COMMANDS    := openct-control ifdhandler openct-tool openct-vtoken
LDFLAGS     := -X openct/internal/cli.Version=$(VERSION) -X openct/internal/cli.ConfigFile=$(SYSCONFDIR)/openct.conf

.PHONY: all build commands compat demo test lint unit e2e bench fuzz install deb rpm generate clean

all: build

build: commands compat

commands:
	@scripts/deps build
	$(GO) build -trimpath -buildmode=pie -ldflags '$(LDFLAGS)' -o build/ $(addprefix ./cmd/,$(COMMANDS))

compat:
	@scripts/deps build
	$(MAKE) -C compat VERSION=$(VERSION)

demo:
	@scripts/deps demo
	@$(MAKE) --no-print-directory commands
	@scripts/demo build

test: lint unit
	$(MAKE) -C compat check VERSION=$(VERSION)

lint:
	@scripts/deps test
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

unit:
	@scripts/deps test
	$(GO) test -race ./...

generate:
	$(GO) generate ./...

clean:
	rm -rf build
