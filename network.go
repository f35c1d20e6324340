// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/skepvm/skep/netif"
)

// network is the bridge and the machines' taps on it.
type network interface {
	// setup makes the bridge.
	setup(ctx context.Context) error
	// openTap makes a machine's tap, in place of one that an earlier run left.
	openTap(ctx context.Context, r *record) (*os.File, error)
	// removeTap removes it; one that is not there is no error.
	removeTap(ctx context.Context, r *record) error
	// sweep removes the taps of machines that are none of this store's.
	sweep(ctx context.Context, known func(id string) bool) error
	close() error
}

// bridgeNetwork is the host's own.
type bridgeNetwork struct {
	cfg   NetworkConfig
	conn  *netif.Conn
	owner string // of this store's taps: owner/ID
}

func openNetwork(cfg *resolved) (network, error) {
	if cfg.Network.Disabled {
		return noNetwork{}, nil
	}
	conn, err := netif.Open()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(cfg.Store))
	return &bridgeNetwork{cfg: cfg.Network, conn: conn, owner: hex.EncodeToString(sum[:6])}, nil
}

func (n *bridgeNetwork) setup(context.Context) error {
	if n.cfg.External {
		i, err := n.conn.Get(n.cfg.Bridge)
		if err != nil {
			return err
		}
		if i.Kind != netif.KindBridge {
			return fmt.Errorf("interface %s is no bridge", n.cfg.Bridge)
		}
		return nil
	}
	_, err := n.conn.EnsureBridge(netif.BridgeSpec{Common: netif.Common{
		Name: n.cfg.Bridge, Owner: "bridge", MTU: n.cfg.MTU, Up: true,
		Addresses: []netip.Prefix{n.cfg.Address},
	}})
	return err
}

func (n *bridgeNetwork) openTap(ctx context.Context, r *record) (*os.File, error) {
	if err := n.removeTap(ctx, r); err != nil {
		return nil, err
	}
	tap, err := n.conn.CreateTap(netif.TapSpec{
		Common: netif.Common{
			Name: r.Tap, Owner: n.owner + "/" + r.ID, MTU: n.cfg.MTU, Up: true, Bridge: n.cfg.Bridge,
		},
		VnetHeader: true,
	})
	if err != nil {
		return nil, err
	}
	return tap.Files[0], nil
}

func (n *bridgeNetwork) removeTap(ctx context.Context, r *record) error {
	if err := n.conn.Destroy(r.Tap); err != nil && !errors.Is(err, netif.ErrNotFound) {
		return err
	}
	return nil
}

func (n *bridgeNetwork) sweep(ctx context.Context, known func(id string) bool) error {
	_, err := n.conn.Sweep(func(i netif.Interface) bool {
		id, ours := strings.CutPrefix(i.Owner, n.owner+"/")
		return ours && !known(id)
	})
	return err
}

func (n *bridgeNetwork) close() error { return n.conn.Close() }

// noNetwork is that of a host which gives machines none.
type noNetwork struct{}

func (noNetwork) setup(context.Context) error { return nil }
func (noNetwork) openTap(context.Context, *record) (*os.File, error) {
	return nil, errors.ErrUnsupported
}
func (noNetwork) removeTap(context.Context, *record) error       { return nil }
func (noNetwork) sweep(context.Context, func(string) bool) error { return nil }
func (noNetwork) close() error                                   { return nil }
