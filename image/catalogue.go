// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Format is how an image is laid out, once it is decompressed.
type Format string

// The formats. An empty one is told from the file's first bytes; say FormatRaw
// where the image's content is not to be trusted with that choice.
const (
	FormatRaw   Format = "raw"
	FormatQcow2 Format = "qcow2"
)

// Size is a number of bytes; in a catalogue either a number or a string such
// as "512m", "2g", "1t" (powers of 1024).
type Size int64

// UnmarshalYAML reads a number or a string with a unit.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	v, err := ParseSize(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: %w", n.Line, invalid("size %q", clip(n.Value)))
	}
	*s = v
	return nil
}

var sizeRE = regexp.MustCompile(`^([0-9]{1,18})([kmgtKMGT]?)$`)

// ParseSize reads a number of bytes, or one with the unit k, m, g or t.
func ParseSize(s string) (Size, error) {
	m := sizeRE.FindStringSubmatch(s)
	if m == nil {
		return 0, invalid("size %q: a number, and k, m, g or t, is wanted", clip(s))
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := 0
	if m[2] != "" {
		shift = 10 * (1 + strings.Index("kmgt", strings.ToLower(m[2])))
	}
	if err != nil || n > (1<<62)>>shift {
		return 0, invalid("size %q is out of range", clip(s))
	}
	return Size(n << shift), nil
}

// File is something to fetch.
type File struct {
	// Source is an http, https or file URL, or a path; a relative path is
	// relative to the catalogue.
	Source   string   `yaml:"source"`
	Checksum Checksum `yaml:"checksum"`
}

// Image is an entry of a catalogue: where an image is, and what is in it.
type Image struct {
	Name        string   `yaml:"name"` // 1-64 of [a-z0-9._-]
	Aliases     []string `yaml:"aliases"`
	Description string   `yaml:"description"`

	// Source and Checksum are those of the file as it is fetched, compressed or
	// not. Without a checksum a remote file is refused, unless it is "none".
	Source   string   `yaml:"source"`
	Checksum Checksum `yaml:"checksum"`
	Format   Format   `yaml:"format"`

	OS      string `yaml:"os"`      // "linux", "freebsd", ...
	Profile string `yaml:"profile"` // as v1 of the API calls the flavour
	User    string `yaml:"user"`    // who logs in
	MinDisk Size   `yaml:"min_disk"`
	MinRAM  Size   `yaml:"min_ram"`

	// Kernel and Initrd, which are verified and kept beside the image, boot it
	// directly, with Cmdline. A kernel that is an ELF file is FreeBSD's: the
	// initrd is then a memory disk's image (md0) and the command line the kernel's
	// environment, such as vfs.root.mountfrom=ufs:/dev/gpt/rootfs.
	Kernel  *File  `yaml:"kernel"`
	Initrd  *File  `yaml:"initrd"`
	Cmdline string `yaml:"cmdline"`
}

const (
	maxCatalogue = 4 << 20
	maxImages    = 4096
	maxCmdline   = 2048 // COMMAND_LINE_SIZE of Linux on x86
)

var (
	nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	wordRE = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)
)

// CheckName says why a name cannot be an image's.
func CheckName(name string) error {
	if !nameRE.MatchString(name) {
		return invalid("image name %q: 1-64 of a-z, 0-9, '.', '_' or '-', the first a letter or digit", clip(name))
	}
	return nil
}

// Check says what is wrong with an entry.
func (i *Image) Check() error {
	errs := []error{CheckName(i.Name)}
	for _, a := range i.Aliases {
		errs = append(errs, CheckName(a))
	}
	errs = append(errs, File{i.Source, i.Checksum}.check())
	switch i.Format {
	case "", FormatRaw, FormatQcow2:
	default:
		errs = append(errs, invalid("format %q: raw or qcow2", clip(string(i.Format))))
	}
	for _, w := range []string{i.OS, i.Profile, i.User} {
		if !wordRE.MatchString(w) {
			errs = append(errs, invalid("%q: at most 64 letters, digits, '.', '_' or '-'", clip(w)))
		}
	}
	if len(i.Description) > 1024 || len(i.Cmdline) > maxCmdline || strings.ContainsAny(i.Cmdline+i.Description, "\x00\n") {
		errs = append(errs, invalid("description or kernel command line: too long, or not one line"))
	}
	if i.MinDisk < 0 || i.MinRAM < 0 {
		errs = append(errs, invalid("a negative size"))
	}
	for _, f := range []*File{i.Kernel, i.Initrd} {
		if f != nil {
			errs = append(errs, f.check())
		}
	}
	if i.Initrd != nil && i.Kernel == nil {
		errs = append(errs, invalid("an initrd without a kernel"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("image %q: %w", clip(i.Name), err)
	}
	return nil
}

func (f File) check() error {
	if err := f.Checksum.check(); err != nil {
		return err
	}
	remote, _, err := f.where()
	if err != nil {
		return err
	}
	if remote != nil && f.Checksum == "" {
		return invalid("%s has no checksum (to take it on trust, say %q)", clip(f.Source), NoChecksum)
	}
	return nil
}

// where is a URL to fetch, or a path.
func (f File) where() (remote *url.URL, path string, err error) {
	if f.Source == "" || strings.Contains(f.Source, "\x00") || len(f.Source) > 4096 {
		return nil, "", invalid("source %q", clip(f.Source))
	}
	if !strings.Contains(f.Source, "://") {
		return nil, f.Source, nil
	}
	u, err := url.Parse(f.Source)
	if err != nil {
		return nil, "", invalid("source %q: %v", clip(f.Source), err)
	}
	switch {
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return u, "", nil
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && filepath.IsAbs(u.Path):
		return nil, u.Path, nil
	}
	return nil, "", invalid("source %q: http, https, file or a path is wanted", clip(f.Source))
}

// Catalogue is a set of images, each of whose names and aliases is one's alone.
type Catalogue struct {
	images []Image
	byName map[string]int
}

// NewCatalogue checks entries and makes a catalogue of them.
func NewCatalogue(images []Image) (*Catalogue, error) {
	if len(images) > maxImages {
		return nil, fmt.Errorf("image: catalogue: %w", invalid("%d images, at most %d", len(images), maxImages))
	}
	c := &Catalogue{byName: map[string]int{}}
	for n, i := range images {
		if err := i.Check(); err != nil {
			return nil, fmt.Errorf("image: catalogue: %w", err)
		}
		for _, name := range append([]string{i.Name}, i.Aliases...) {
			if other, ok := c.byName[name]; ok {
				return nil, fmt.Errorf("image: catalogue: %w", invalid("%q is both %q and %q", name, images[other].Name, i.Name))
			}
			c.byName[name] = n
		}
		c.images = append(c.images, i)
	}
	return c, nil
}

// LoadCatalogue reads a catalogue from a file of YAML or JSON: a mapping whose
// key "images" lists the fields of Image.
func LoadCatalogue(path string) (*Catalogue, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("image: catalogue: %w", err)
	}
	defer f.Close()
	c, err := ReadCatalogue(f, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ReadCatalogue reads a catalogue; relative paths in it are relative to dir.
func ReadCatalogue(r io.Reader, dir string) (*Catalogue, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxCatalogue+1))
	if err != nil {
		return nil, fmt.Errorf("image: catalogue: %w", err)
	}
	if len(b) > maxCatalogue {
		return nil, fmt.Errorf("image: catalogue: %w: more than %d bytes", ErrTooLarge, maxCatalogue)
	}
	var file struct {
		Images []Image `yaml:"images"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b)) // JSON is YAML
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("image: catalogue: %w: %w", ErrInvalid, err)
	}
	for n := range file.Images {
		i := &file.Images[n]
		i.Source = within(dir, i.Source)
		for _, f := range []*File{i.Kernel, i.Initrd} {
			if f != nil {
				f.Source = within(dir, f.Source)
			}
		}
	}
	return NewCatalogue(file.Images)
}

func within(dir, source string) string {
	if source == "" || strings.Contains(source, "://") || filepath.IsAbs(source) {
		return source
	}
	return filepath.Join(dir, source)
}

// Lookup finds an image by its name or an alias.
func (c *Catalogue) Lookup(name string) (Image, error) {
	n, ok := c.byName[name]
	if !ok {
		return Image{}, fmt.Errorf("image: %q: %w in the catalogue", clip(name), ErrNotFound)
	}
	return c.images[n], nil
}

// Images lists the catalogue, sorted by name.
func (c *Catalogue) Images() []Image {
	return slices.SortedFunc(slices.Values(c.images), func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
}
