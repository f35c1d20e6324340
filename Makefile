# SPDX-License-Identifier: BSD-2-Clause

# Everything that make does with other programs' help is in .ci/ and
# cmd/skep-testbed; see docs/testing.md.

.PHONY: all build deps lint unit test bench soak demo install clean

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

# Figures for the README, as ratios in one run.
bench: deps build
	@.ci/bench

# The tests that look for what goes wrong once in a thousand times: SOAK=30m
soak: deps build
	@.ci/soak

# A cloud image becomes a running machine with ssh. DEMO_KEEP=1 leaves it up.
demo: deps build
	@.ci/demo

# Programs, manual pages, completion, service files: PREFIX, DESTDIR
PREFIX ?= /usr/local
install: build
	install -D -m 0755 bin/skep bin/skepd -t $(DESTDIR)$(PREFIX)/bin
	bin/skep man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/skep completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/skep
	bin/skep completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_skep
	bin/skep completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/skep.fish
	install -D -m 0644 dist/skepd.yaml $(DESTDIR)$(PREFIX)/share/examples/skep/skepd.yaml
	if [ "$$(uname)" = FreeBSD ]; then install -D -m 0755 dist/skepd.rc $(DESTDIR)$(PREFIX)/etc/rc.d/skepd; \
	else install -D -m 0644 dist/skepd.service $(DESTDIR)$(PREFIX)/lib/systemd/system/skepd.service; fi

clean:
	rm -rf bin
