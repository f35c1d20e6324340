// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/skepvm/skep"
)

const (
	defaultConfig    = configDir + "/skepd.yaml"
	defaultCatalogue = configDir + "/images.yaml"
	defaultStore     = "dir:" + stateDir
	defaultListen    = "127.0.0.1:8080"
)

// config is the configuration file: YAML, or JSON.
type config struct {
	Store       string        `yaml:"store"`
	RunDir      string        `yaml:"run_dir"`
	Listen      []string      `yaml:"listen"`
	Socket      string        `yaml:"socket"`
	PublicURL   string        `yaml:"public_url"`
	Catalogue   string        `yaml:"catalogue"`
	AllowedKeys string        `yaml:"allowed_keys"`
	WorkerUID   uint32        `yaml:"worker_uid"`
	NoSandbox   bool          `yaml:"no_sandbox"`
	Network     networkConfig `yaml:"network"`
	Limits      limitsConfig  `yaml:"limits"`
	Flavors     []flavor      `yaml:"flavors"`
	Log         logConfig     `yaml:"log"`
}

type networkConfig struct {
	Bridge   string   `yaml:"bridge"`
	Address  string   `yaml:"address"`
	First    string   `yaml:"first"`
	Last     string   `yaml:"last"`
	DNS      []string `yaml:"dns"`
	MTU      int      `yaml:"mtu"`
	External bool     `yaml:"external"`
	Disabled bool     `yaml:"disabled"`
}

type limitsConfig struct {
	Memory         size    `yaml:"memory"`
	DiskOvercommit float64 `yaml:"disk_overcommit"`
	Machines       int     `yaml:"machines"`
	PerNamespace   int     `yaml:"per_namespace"`
	CPUs           int     `yaml:"cpus"`
}

type flavor struct {
	Name   string `yaml:"name"`
	CPUs   int    `yaml:"cpus"`
	Memory size   `yaml:"memory"`
	Disk   size   `yaml:"disk"`
}

type logConfig struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// size is a number of bytes, or one with a unit, as 512m.
type size int64

func (s *size) UnmarshalYAML(n *yaml.Node) error {
	v, err := skep.ParseSize(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*s = size(v)
	return nil
}

const maxConfig = 1 << 20

func loadConfig(path string) (config, error) {
	var c config
	named := path != ""
	if !named {
		path = defaultConfig
	}
	f, err := os.Open(path)
	if !named && errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	for _, p := range []*string{&c.Catalogue, &c.AllowedKeys} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return c, nil
}

// override puts the flags that were given in place of the file's words, and the
// defaults where neither said anything.
func (c *config) override(f config) error {
	set := func(to *string, values ...string) {
		for _, v := range append(values, *to) {
			if v != "" {
				*to = v
				return
			}
		}
	}
	set(&c.Store, f.Store)
	set(&c.RunDir, f.RunDir)
	set(&c.Socket, f.Socket)
	set(&c.PublicURL, f.PublicURL)
	set(&c.Catalogue, f.Catalogue)
	set(&c.AllowedKeys, f.AllowedKeys)
	set(&c.Network.Bridge, f.Network.Bridge)
	set(&c.Network.Address, f.Network.Address)
	set(&c.Log.Level, f.Log.Level)
	set(&c.Log.Format, f.Log.Format)
	c.NoSandbox = c.NoSandbox || f.NoSandbox
	if len(f.Listen) > 0 {
		c.Listen = f.Listen
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{defaultListen}
	}
	if c.Store == "" {
		c.Store = defaultStore
	}
	if c.Catalogue == "" {
		if _, err := os.Stat(defaultCatalogue); err == nil {
			c.Catalogue = defaultCatalogue
		}
	}
	// A relative path of a flag is the caller's.
	for _, p := range []*string{&c.Catalogue, &c.AllowedKeys} {
		if *p != "" {
			abs, err := filepath.Abs(*p)
			if err != nil {
				return err
			}
			*p = abs
		}
	}
	return nil
}

// host is the configuration as package skep wants it.
func (c *config) host(log *slog.Logger) (skep.Config, error) {
	s := skep.Config{
		Store: c.Store, RunDir: c.RunDir, Catalogue: c.Catalogue, WorkerUID: c.WorkerUID, NoSandbox: c.NoSandbox, Logger: log,
		Network: skep.NetworkConfig{
			Bridge: c.Network.Bridge, MTU: c.Network.MTU, External: c.Network.External, Disabled: c.Network.Disabled,
		},
		Limits: skep.Limits{
			Memory: int64(c.Limits.Memory), DiskOvercommit: c.Limits.DiskOvercommit,
			Machines: c.Limits.Machines, PerNamespace: c.Limits.PerNamespace, CPUs: c.Limits.CPUs,
		},
	}
	for _, f := range c.Flavors {
		s.Flavors = append(s.Flavors, skep.Flavor{Name: f.Name, CPUs: f.CPUs, Memory: int64(f.Memory), Disk: int64(f.Disk)})
	}
	if c.Network.Address != "" {
		p, err := netip.ParsePrefix(c.Network.Address)
		if err != nil {
			return s, fmt.Errorf("network address: %w", err)
		}
		s.Network.Address = p
	}
	for _, a := range []struct {
		text string
		to   *netip.Addr
	}{{c.Network.First, &s.Network.First}, {c.Network.Last, &s.Network.Last}} {
		if a.text == "" {
			continue
		}
		v, err := netip.ParseAddr(a.text)
		if err != nil {
			return s, fmt.Errorf("network: first or last address: %w", err)
		}
		*a.to = v
	}
	for _, d := range c.Network.DNS {
		v, err := netip.ParseAddr(d)
		if err != nil {
			return s, fmt.Errorf("network: DNS server: %w", err)
		}
		s.Network.DNS = append(s.Network.DNS, v)
	}
	return s, nil
}

func (c *config) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if c.Log.Level != "" {
		if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
			return nil, fmt.Errorf("log level %q: want debug, info, warn or error", c.Log.Level)
		}
	}
	opts := &slog.HandlerOptions{Level: level}
	switch c.Log.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q: want text or json", c.Log.Format)
}

// allowedKeys reads the keys that may make machines; nil: all may.
func (c *config) allowedKeys() ([]string, error) {
	if c.AllowedKeys == "" {
		return nil, nil
	}
	b, err := os.ReadFile(c.AllowedKeys)
	if err != nil {
		return nil, fmt.Errorf("allowed keys: %w", err)
	}
	keys := []string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		if line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	return keys, nil
}
