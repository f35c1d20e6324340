// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Key is the secret of an encryption root: RawKey, HexKey or Passphrase; nil for none.
type Key []byte

// A Key's first byte tells its format (zfs_keyformat_t); the constructors set it.
const (
	formatRaw        = 1
	formatHex        = 2
	formatPassphrase = 3

	keyLen            = 32 // WRAPPING_KEY_LEN
	minPassphrase     = 8
	maxPassphrase     = 512
	minIterations     = 100000
	defaultIterations = 350000
)

// RawKey is a key of 32 bytes.
func RawKey(k []byte) Key { return append(Key{formatRaw}, k...) }

// HexKey is a key of 64 hexadecimal digits.
func HexKey(s string) Key { return append(Key{formatHex}, s...) }

// Passphrase is a key of 8 to 512 bytes, stretched by PBKDF2.
func Passphrase(s string) Key { return append(Key{formatPassphrase}, s...) }

// String does not tell the key.
func (k Key) String() string {
	if len(k) == 0 {
		return "no key"
	}
	return "key of format " + k.format()
}

func (k Key) format() string {
	switch k[0] {
	case formatRaw:
		return "raw"
	case formatHex:
		return "hex"
	case formatPassphrase:
		return "passphrase"
	}
	return "unknown"
}

func keyError(op, name, why string) error {
	return &Error{Op: op, Name: name, Kind: ErrWrongKey, Hint: why}
}

// wrapping gives the 32 bytes that the kernel takes; salt and iterations are of a passphrase.
func (k Key) wrapping(op, name string, salt, iterations uint64) ([]byte, error) {
	if len(k) == 0 {
		return nil, keyError(op, name, "no key given")
	}
	body := k[1:]
	switch k[0] {
	case formatRaw:
		if len(body) != keyLen {
			return nil, keyError(op, name, fmt.Sprintf("a raw key has %d bytes, not %d", keyLen, len(body)))
		}
		return append([]byte(nil), body...), nil
	case formatHex:
		b, err := hex.DecodeString(string(body))
		if err != nil || len(b) != keyLen {
			return nil, keyError(op, name, "a hex key has 64 hexadecimal digits")
		}
		return b, nil
	case formatPassphrase:
		if len(body) < minPassphrase || len(body) > maxPassphrase {
			return nil, keyError(op, name, fmt.Sprintf("a passphrase has %d to %d bytes", minPassphrase, maxPassphrase))
		}
		if iterations > 100_000_000 {
			return nil, keyError(op, name, "too many PBKDF2 iterations")
		}
		b, err := pbkdf2.Key(sha1.New, string(body), binary.LittleEndian.AppendUint64(nil, salt), int(iterations), keyLen)
		if err != nil {
			return nil, &Error{Op: op, Name: name, Err: err}
		}
		return b, nil
	}
	return nil, keyError(op, name, "unknown key format")
}

// apply puts what the key asks for into the properties and arguments of a creation or change of key.
func (k Key) apply(op, name string, props, in *nvlist.List) error {
	if len(k) == 0 {
		return nil
	}
	var salt, iterations uint64
	nvlist.Set(props, "keyformat", uint64(k[0]))
	if k[0] == formatPassphrase {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return &Error{Op: op, Name: name, Err: err}
		}
		salt = binary.LittleEndian.Uint64(b[:])
		iterations = defaultIterations
		if n, ok := props.Uint("pbkdf2iters"); ok {
			iterations = n
		}
		if iterations < minIterations {
			return propError(op, name, "pbkdf2iters", fmt.Sprint(iterations), fmt.Sprintf("at least %d", minIterations))
		}
		nvlist.Set(props, "pbkdf2iters", iterations)
		nvlist.Set(props, "pbkdf2salt", salt)
	}
	if !props.Has("keylocation") {
		nvlist.Set(props, "keylocation", "prompt")
	}
	w, err := k.wrapping(op, name, salt, iterations)
	if err != nil {
		return err
	}
	nvlist.Set(in, "hidden_args", nvlist.New(nvlist.P("wkeydata", nvlist.Uint8s(w))))
	return nil
}

// LoadKey loads the key of an encryption root. With checkOnly the key is tried
// and nothing loaded. A key that is not the right one is ErrWrongKey, one that
// is loaded already ErrExists.
func (h *Handle) LoadKey(ctx context.Context, name string, key Key, checkOnly bool) error {
	const op = "load-key"
	d, err := h.get(ctx, op, name, true)
	if err != nil {
		return err
	}
	e := d.props.List("pbkdf2salt")
	salt, _ := e.Uint("value")
	w, err := key.wrapping(op, name, salt, d.Number("pbkdf2iters"))
	if err != nil {
		return err
	}
	in := nvlist.New(nvlist.P("hidden_args", nvlist.New(nvlist.P("wkeydata", nvlist.Uint8s(w)))))
	if checkOnly {
		nvlist.Set(in, "noop", nvlist.Flag{})
	}
	_, err = h.call(ctx, op, zcmd.LoadKey, name, in)
	return err
}

// UnloadKey forgets the key of an encryption root; its datasets must not be in use.
func (h *Handle) UnloadKey(ctx context.Context, name string) error {
	const op = "unload-key"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	_, err := h.call(ctx, op, zcmd.UnloadKey, name, nil)
	if isKind(err, ErrKeyNotLoaded) {
		// EACCES, whether there is no key or it is an ancestor's.
		return hint(err, ErrKeyNotLoaded, "or it is that of the dataset's encryption root")
	}
	return err
}

// ChangeKey gives a dataset whose key is loaded a new one and makes it an
// encryption root; props may hold keylocation and pbkdf2iters.
func (h *Handle) ChangeKey(ctx context.Context, name string, key Key, props Props) error {
	const op = "change-key"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	l, err := encodeProps(op, name, 0, props, true)
	if err != nil {
		return err
	}
	in := nvlist.New(nvlist.P("crypt_cmd", uint64(2))) // DCP_CMD_NEW_KEY
	if err := key.apply(op, name, l, in); err != nil {
		return err
	}
	if !in.Has("hidden_args") {
		return keyError(op, name, "no key given")
	}
	nvlist.Set(in, "props", l)
	_, err = h.call(ctx, op, zcmd.ChangeKey, name, in)
	return err
}

// InheritKey makes a dataset take the key of its parent's encryption root.
func (h *Handle) InheritKey(ctx context.Context, name string) error {
	const op = "change-key"
	if err := checkName(op, name, 0); err != nil {
		return err
	}
	_, err := h.call(ctx, op, zcmd.ChangeKey, name, nvlist.New(nvlist.P("crypt_cmd", uint64(3)))) // DCP_CMD_INHERIT
	return err
}

// CreateEncryptedFilesystem creates a file system that is an encryption root.
func (h *Handle) CreateEncryptedFilesystem(ctx context.Context, name string, key Key, props Props) error {
	p := Props{"encryption": "on"}
	for k, v := range props {
		p[k] = v
	}
	return h.create(ctx, name, Filesystem, objsetFilesystem, p, key)
}
