// SPDX-License-Identifier: BSD-2-Clause

package ctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// ErrRefused wraps what a worker answered to an operation that it would not do.
var ErrRefused = errors.New("the worker refused")

// Conn is a connection to a worker whose Hello was read and found good.
type Conn struct {
	net.Conn
	Hello Hello
	stop  func() bool
}

// Dial connects to the worker of a machine. A socket that speaks for another
// machine, or another protocol, is refused. ctx bounds the whole life of the
// connection.
func Dial(ctx context.Context, path, machine string) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to worker of machine %s: %w", machine, err)
	}
	c := &Conn{Conn: nc}
	c.stop = context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	if err := c.greet(machine); err != nil {
		c.Close()
		return nil, fmt.Errorf("greet worker of machine %s: %w", machine, because(ctx, err))
	}
	return c, nil
}

// because prefers the context's own error to the deadline that it caused.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Conn) greet(machine string) error {
	if err := ReadFrame(c.Conn, &c.Hello); err != nil {
		return err
	}
	if c.Hello.Version != Version {
		return fmt.Errorf("it speaks version %d of the protocol, not %d", c.Hello.Version, Version)
	}
	if c.Hello.Machine != machine {
		return fmt.Errorf("the socket speaks for machine %q", c.Hello.Machine)
	}
	return nil
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// Do sends one request and reads its response.
func (c *Conn) Do(op Op) (Response, error) {
	var r Response
	if err := WriteFrame(c.Conn, Request{Op: op}); err != nil {
		return r, fmt.Errorf("ask worker for %s: %w", op, err)
	}
	if err := ReadFrame(c.Conn, &r); err != nil {
		return r, fmt.Errorf("worker's answer to %s: %w", op, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("%s: %w: %s", op, ErrRefused, r.Error)
	}
	return r, nil
}

// Call dials, does one operation and hangs up.
func Call(ctx context.Context, path, machine string, op Op) (Response, error) {
	c, err := Dial(ctx, path, machine)
	if err != nil {
		return Response{}, err
	}
	defer c.Close()
	return c.Do(op)
}
