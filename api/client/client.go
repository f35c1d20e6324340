// SPDX-License-Identifier: BSD-2-Clause

package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/skepvm/skep/api/wire"
)

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 64 << 20

// Client calls one host for one caller. It is safe for many goroutines.
type Client struct {
	base string
	cid  string
	http *http.Client
	name string // the endpoint as it was given, for errors
}

// Error is what the host refused, or failed at.
type Error struct {
	Op     string // "create vm1"
	Status int    // of HTTP
	Detail string // why
}

func (e *Error) Error() string { return e.Op + ": " + e.Detail }

// IsNotFound reports whether err is the host's "no such thing".
func IsNotFound(err error) bool { return hasStatus(err, http.StatusNotFound) }

// IsConflict reports whether err is a name that is taken, or a machine whose state
// forbids what was asked.
func IsConflict(err error) bool { return hasStatus(err, http.StatusConflict) }

func hasStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

// New makes a Client for endpoint, "http://HOST:PORT", "https://HOST:PORT" or
// "unix:/PATH". cid is the caller's identity (wire.CID of an SSH public key);
// over the Unix socket it may be empty: then the operator asks.
func New(endpoint, cid string) (*Client, error) {
	c := &Client{cid: cid, name: endpoint, http: &http.Client{}}
	if path, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		c.base = "http://skep"
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}
		return c, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("host %q: want http://HOST:PORT, https://HOST:PORT or unix:/PATH", endpoint)
	}
	c.base = strings.TrimRight(endpoint, "/")
	// A transport of its own, so that Close ends its connections and no others.
	c.http.Transport = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		IdleConnTimeout:       time.Minute,
		ExpectContinueTimeout: time.Second,
	}
	return c, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Endpoint is what New was given.
func (c *Client) Endpoint() string { return c.name }

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.cid != "" {
		r.Header.Set("cid", c.cid)
	}
	return r, nil
}

// send sends a request and answers with a response whose status is good.
func (c *Client) send(ctx context.Context, op, method, path string, in any) (*http.Response, error) {
	r, err := c.request(ctx, method, path, in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	a, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(op, err)
	}
	if a.StatusCode/100 == 2 {
		return a, nil
	}
	defer a.Body.Close()
	return nil, refusal(op, a)
}

func (c *Client) unreachable(op string, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // the rest of its text says nothing more
	}
	var ne *net.OpError
	if errors.As(err, &ne) && ne.Op == "dial" {
		return fmt.Errorf("%s: no answer from %s: %w (is skepd running?)", op, c.name, err)
	}
	return fmt.Errorf("%s: %s: %w", op, c.name, err)
}

// refusal reads the error of an answer: problem+json of version 2, with the
// single faults of a refused body.
func refusal(op string, a *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(a.Body, 64<<10))
	var p struct {
		Detail string `json:"detail"`
		Errors []struct {
			Message  string `json:"message"`
			Location string `json:"location"`
		} `json:"errors"`
		Message string `json:"Message"`
	}
	e := &Error{Op: op, Status: a.StatusCode}
	if json.Unmarshal(b, &p) == nil {
		e.Detail = p.Detail + p.Message
	}
	for _, x := range p.Errors {
		e.Detail += "; " + strings.TrimPrefix(x.Location, "body.") + ": " + x.Message
	}
	if e.Detail == "" {
		e.Detail = a.Status
	}
	return e
}

func (c *Client) call(ctx context.Context, op, method, path string, in, out any) error {
	a, err := c.send(ctx, op, method, path, in)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(a.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s: read the answer of %s: %w", op, c.name, err)
	}
	return nil
}

func machinePath(name, rest string) string {
	return "/api/v2/machines/" + url.PathEscape(name) + rest
}

// Host asks what the host has.
func (c *Client) Host(ctx context.Context) (h wire.Host, err error) {
	err = c.call(ctx, "ask the host", "GET", "/api/v2/host", nil, &h)
	return h, err
}

// Machines lists the caller's machines; the operator's without a cid are all.
func (c *Client) Machines(ctx context.Context) (m []wire.Machine, err error) {
	err = c.call(ctx, "list machines", "GET", "/api/v2/machines", nil, &m)
	return m, err
}

// Machine asks for one machine.
func (c *Client) Machine(ctx context.Context, name string) (m wire.Machine, err error) {
	err = c.call(ctx, "status of "+name, "GET", machinePath(name, ""), nil, &m)
	return m, err
}

// Create asks for a machine and returns at once: Machine tells its progress.
func (c *Client) Create(ctx context.Context, spec wire.Create) (m wire.Machine, err error) {
	err = c.call(ctx, "create "+spec.Name, "POST", "/api/v2/machines", spec, &m)
	return m, err
}

// Destroy removes a machine and all that it has.
func (c *Client) Destroy(ctx context.Context, name string) error {
	return c.call(ctx, "destroy "+name, "DELETE", machinePath(name, ""), nil, nil)
}

// Start starts a machine.
func (c *Client) Start(ctx context.Context, name string) (wire.Machine, error) {
	return c.verb(ctx, "start", name, "")
}

// Reset resets a running machine in place.
func (c *Client) Reset(ctx context.Context, name string) (wire.Machine, error) {
	return c.verb(ctx, "reset", name, "")
}

// Pause halts the vCPUs; Resume lets them run on.
func (c *Client) Pause(ctx context.Context, name string) (wire.Machine, error) {
	return c.verb(ctx, "pause", name, "")
}

// Resume lets a paused machine run on.
func (c *Client) Resume(ctx context.Context, name string) (wire.Machine, error) {
	return c.verb(ctx, "resume", name, "")
}

// StopOptions say how patient Stop and Reboot are. The zero value is the host's
// default.
type StopOptions struct {
	Force   bool          // at once, as by pulling the plug
	Timeout time.Duration // what the guest may take, in whole seconds, at most 150
}

func (o StopOptions) query() string {
	q := url.Values{}
	if o.Force {
		q.Set("force", "true")
	}
	if s := int(o.Timeout / time.Second); s > 0 {
		q.Set("timeout", fmt.Sprint(s))
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// Stop presses the power button and waits until the machine is off.
func (c *Client) Stop(ctx context.Context, name string, opt StopOptions) (wire.Machine, error) {
	return c.verb(ctx, "stop", name, opt.query())
}

// Reboot stops a machine and starts it again.
func (c *Client) Reboot(ctx context.Context, name string, opt StopOptions) (wire.Machine, error) {
	return c.verb(ctx, "reboot", name, opt.query())
}

func (c *Client) verb(ctx context.Context, verb, name, query string) (m wire.Machine, err error) {
	err = c.call(ctx, verb+" "+name, "POST", machinePath(name, "/"+verb+query), nil, &m)
	return m, err
}

// Stats reads the counters of a running machine.
func (c *Client) Stats(ctx context.Context, name string) (s wire.Stats, err error) {
	err = c.call(ctx, "statistics of "+name, "GET", machinePath(name, "/stats"), nil, &s)
	return s, err
}

// Log gives what a machine last wrote to its first serial line.
func (c *Client) Log(ctx context.Context, name string) ([]byte, error) {
	op := "log of " + name
	a, err := c.send(ctx, op, "GET", machinePath(name, "/log"), nil)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s: read the answer of %s: %w", op, c.name, err)
	}
	return b, nil
}

// Snapshots lists a machine's snapshots.
func (c *Client) Snapshots(ctx context.Context, name string) (s []wire.Snapshot, err error) {
	err = c.call(ctx, "snapshots of "+name, "GET", machinePath(name, "/snapshots"), nil, &s)
	return s, err
}

// Snapshot takes one.
func (c *Client) Snapshot(ctx context.Context, name, snapshot string) error {
	return c.call(ctx, "snapshot "+name+"@"+snapshot, "POST", machinePath(name, "/snapshots"), wire.Named{Name: snapshot}, nil)
}

// RemoveSnapshot drops one.
func (c *Client) RemoveSnapshot(ctx context.Context, name, snapshot string) error {
	return c.call(ctx, "remove snapshot "+name+"@"+snapshot, "DELETE", machinePath(name, "/snapshots/"+url.PathEscape(snapshot)), nil, nil)
}

// Rollback puts the disk of a stopped machine back.
func (c *Client) Rollback(ctx context.Context, name, snapshot string) error {
	return c.call(ctx, "roll back to "+name+"@"+snapshot, "POST", machinePath(name, "/snapshots/"+url.PathEscape(snapshot)+"/rollback"), nil, nil)
}

// Clone makes a new machine from this one.
func (c *Client) Clone(ctx context.Context, name string, in wire.Clone) (m wire.Machine, err error) {
	err = c.call(ctx, "clone "+name+" to "+in.Name, "POST", machinePath(name, "/clone"), in, &m)
	return m, err
}

// Images lists the catalogue.
func (c *Client) Images(ctx context.Context) (i []wire.Image, err error) {
	err = c.call(ctx, "list images", "GET", "/api/v2/images", nil, &i)
	return i, err
}

// RemoveImage drops the warm copy of an image; only the operator may.
func (c *Client) RemoveImage(ctx context.Context, name string) error {
	return c.call(ctx, "remove image "+name, "DELETE", "/api/v2/images/"+url.PathEscape(name), nil, nil)
}
