# SPDX-License-Identifier: BSD-2-Clause

# Everything that make does with other programs' help is in .ci/ and
# cmd/skep-testbed; see docs/testing.md.

.PHONY: all build deps lint unit test bench soak demo install install-files clean

all: build

build:
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

# Installs the Debian packages that are missing, and says which.
deps:
	@.ci/deps

lint:
	@.ci/lint

# Tests that run anywhere, with the race detector; fuzz targets on their corpus.
unit:
	@.ci/test unit

# Everything: unit tests, the testbed's own, and the real runs in it.
test: deps
	@.ci/test

# Figures for docs/figures.md, as ratios in one run.
bench: deps build
	@.ci/bench

# The tests that look for what goes wrong once in a thousand times: SOAK=30m
soak: deps build
	@.ci/soak

# A cloud image becomes a running machine with ssh. DEMO_KEEP=1 leaves it up.
demo: deps build
	@.ci/demo

# Programs, manual pages, completion, examples, service file: PREFIX, DESTDIR.
# INSTALL_OS says whose service file it is, BIN where the programs were built.
PREFIX ?= /usr/local
INSTALL_OS = $$(uname -s)
BIN = bin
D = $(DESTDIR)$(PREFIX)
install: build install-files

# The same of programs that are there: whoever installs them needs no Go.
install-files:
	install -d "$(D)/bin" "$(D)/sbin" "$(D)/share/man/man1" "$(D)/share/examples/skep"
	install -m 0755 "$(BIN)/skep" "$(D)/bin/skep"
	install -m 0755 "$(BIN)/skepd" "$(D)/sbin/skepd"
	"$(BIN)/skep" man "$(D)/share/man/man1"
	install -d "$(D)/share/bash-completion/completions" "$(D)/share/zsh/site-functions" "$(D)/share/fish/vendor_completions.d"
	"$(BIN)/skep" completion bash > "$(D)/share/bash-completion/completions/skep"
	"$(BIN)/skep" completion zsh > "$(D)/share/zsh/site-functions/_skep"
	"$(BIN)/skep" completion fish > "$(D)/share/fish/vendor_completions.d/skep.fish"
	case "$(INSTALL_OS)" in \
	FreeBSD) from=skepd.rc.in to=etc/rc.d/skepd mode=0755 \
		paths='s|/etc/skep|/usr/local/etc/skep|g; s|/var/lib/|/var/db/|g; s|/run/skep|/var/run/skep|g' ;; \
	*) from=skepd.service.in to=lib/systemd/system/skepd.service mode=0644 paths= ;; \
	esac && \
	for f in skepd.yaml images.yaml; do \
		sed "$$paths" "dist/$$f" > "$(D)/share/examples/skep/$$f" && \
		chmod 0644 "$(D)/share/examples/skep/$$f" || exit 1; \
	done && \
	install -d "$(D)/$${to%/*}" && \
	sed 's|@PREFIX@|$(PREFIX)|g' "dist/$$from" > "$(D)/$$to" && \
	chmod "$$mode" "$(D)/$$to"

clean:
	rm -rf bin
