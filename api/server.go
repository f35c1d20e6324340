// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/wire"
	"github.com/skepvm/skep/internal/apihost"
)

// Options are what a Server is made with. The zero value is good.
type Options struct {
	// PublicURL begins the addresses in answers, as "http://cloud.example:8080";
	// empty: the address that the client itself called.
	PublicURL string
	// AllowedKeys, if not nil, are the only SSH public keys (as in
	// authorized_keys) that may create machines. Their exact bytes count.
	AllowedKeys []string
	// Logger gets failures that are not the client's; nil: slog.Default().
	Logger *slog.Logger
	// Version of the program, shown on the landing page and in the metrics.
	Version string
}

// Server answers the HTTP API of a Host. It is an http.Handler; which listeners
// and time limits it is served with is for the caller to say (NewHTTPServer has
// good ones).
type Server struct {
	host    apihost.Host
	opt     Options
	allowed map[string]bool // by cid; nil: everyone
	log     *slog.Logger
	mux     *http.ServeMux
	metrics *prometheus.Registry
	began   time.Time

	// work that goes on after its request was answered
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a Server for host. Close it before the host.
func New(host *skep.Host, opt Options) (*Server, error) {
	return NewOver(apihost.Of(host), opt)
}

// NewOver is New for tests, which need no more of a host than its interface.
func NewOver(host apihost.Host, opt Options) (*Server, error) {
	s := &Server{host: host, opt: opt, log: opt.Logger, mux: http.NewServeMux(), began: time.Now()}
	if s.log == nil {
		s.log = slog.Default()
	}
	if opt.PublicURL != "" {
		u, err := url.Parse(opt.PublicURL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, fmt.Errorf("public URL %q: want http://HOST[:PORT] or https://HOST[:PORT]", opt.PublicURL)
		}
		s.opt.PublicURL = strings.TrimRight(opt.PublicURL, "/")
	}
	if opt.AllowedKeys != nil {
		s.allowed = map[string]bool{}
		for _, k := range opt.AllowedKeys {
			s.allowed[wire.CID(k)] = true
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.metrics = newMetrics(s)
	s.routesV1()
	s.routesV2()
	return s, nil
}

// Close ends what goes on behind answered requests and waits for it. It does
// not touch machines that run.
func (s *Server) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

// NewHTTPServer gives an http.Server for s whose limits hold against slow and
// endless clients. Handlers that stream lift the limits for themselves.
func (s *Server) NewHTTPServer() *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      3 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext:       markLocal,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// The largest body that any route takes; each has a lower bound of its own.
	r.Body = http.MaxBytesReader(w, r.Body, 4*maxBody)
	s.mux.ServeHTTP(w, r)
}

type localKey struct{}

// markLocal marks connections over a Unix socket: whoever may open it is the
// operator, and sees the machines of every namespace.
func markLocal(ctx context.Context, c net.Conn) context.Context {
	if _, ok := c.(*net.UnixConn); ok {
		return context.WithValue(ctx, localKey{}, true)
	}
	return ctx
}

func isOperator(r *http.Request) bool {
	local, _ := r.Context().Value(localKey{}).(bool)
	return local
}

// background runs f after its request was answered, bounded by the server's own life.
func (s *Server) background(what string, f func(context.Context) error) <-chan error {
	done := make(chan error, 1)
	s.wg.Go(func() {
		err := f(s.ctx)
		if err != nil && !errors.Is(err, context.Canceled) {
			s.log.Info("operation failed", "what", what, "err", err)
		}
		done <- err
	})
	return done
}

// hostHeader is what of a client's Host header may be shown back to it as part
// of a command line.
var hostHeader = regexp.MustCompile(`^[A-Za-z0-9.:\[\]_-]{1,255}$`)

// publicURL begins the addresses that a client is told.
func (s *Server) publicURL(r *http.Request) string {
	if s.opt.PublicURL != "" {
		return s.opt.PublicURL
	}
	host := r.Host
	if !hostHeader.MatchString(host) || isOperator(r) {
		host = "127.0.0.1:8080"
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + host
}
