// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api"
)

// farewell is how long requests that are under way may take when the daemon
// ends.
const farewell = 10 * time.Second

// serve opens the host and answers until ctx ends. Guests run on.
func serve(ctx context.Context, cfg config, logTo io.Writer) (err error) {
	log, err := cfg.logger(logTo)
	if err != nil {
		return err
	}
	hc, err := cfg.host(log)
	if err != nil {
		return err
	}
	keys, err := cfg.allowedKeys()
	if err != nil {
		return err
	}
	host, err := skep.Open(ctx, hc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	srv, err := api.New(host, api.Options{PublicURL: cfg.PublicURL, AllowedKeys: keys, Logger: log, Version: version()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	listeners, err := cfg.listen(ctx, host.RunDir())
	if err != nil {
		return err
	}
	hs := srv.NewHTTPServer()
	failed := make(chan error, len(listeners))
	var wg sync.WaitGroup
	for _, l := range listeners {
		log.Info("listening", "address", l.Addr().String())
		wg.Go(func() { failed <- hs.Serve(l) })
	}
	tellSystemd(log, daemon.SdNotifyReady)
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	tellSystemd(log, daemon.SdNotifyStopping)
	log.Info("ending; guests run on")
	// Streams (events, consoles, waits) end with the API's own context.
	serr := srv.Close()
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if herr := hs.Shutdown(sctx); herr != nil {
		serr = errors.Join(serr, herr, hs.Close())
	}
	wg.Wait()
	return errors.Join(err, serr)
}

// listen opens the TCP addresses and the operator's socket. The host's lock is
// held: a socket that is there was left by a daemon that is gone.
func (c *config) listen(ctx context.Context, runDir string) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
		}
	}()
	var lc net.ListenConfig
	for _, addr := range c.Listen {
		if addr == "none" {
			continue
		}
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	path := c.Socket
	if path == "" {
		path = filepath.Join(runDir, "api.sock")
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return all, err
		}
	}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return all, err
	}
	all = append(all, l)
	return all, os.Chmod(path, 0o600)
}

func tellSystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("tell systemd", "state", state, "error", err)
	}
}
