// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/skepvm/skep"
)

//go:embed pages/*.html
var pageFiles embed.FS

// render writes a page whole or not at all.
func (s *Server) render(w http.ResponseWriter, page string, data any) error {
	t, err := template.New("").Funcs(template.FuncMap{
		"size": func(n int64) string { return skep.FormatSize(n / skep.MiB * skep.MiB) },
		"short": func(cid string) string {
			if len(cid) < 5 {
				return cid
			}
			return cid[:2] + "..." + cid[len(cid)-2:]
		},
		"ago": func(t time.Time) string { return time.Since(t).Round(time.Second).String() },
		"percent": func(part, whole int64) int64 {
			if whole <= 0 {
				return 0
			}
			return min(max(part, 0)*100/whole, 100)
		},
	}).ParseFS(pageFiles, "pages/*.html")
	if err != nil {
		return fmt.Errorf("parse the page %s: %w", page, err)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, page, data); err != nil {
		return fmt.Errorf("render the page %s: %w", page, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(b.Bytes()) // a client that is gone cannot be told
	return nil
}

type page struct {
	Info     skep.Info
	Machines []skep.Status
	Images   []skep.Image
	Flavors  []skep.Flavor
	URL      string
	Version  string
	Began    time.Time
	Now      time.Time
}

func (s *Server) pageData(r *http.Request) (page, error) {
	p := page{Machines: s.host.List(""), Flavors: s.host.Flavors(), URL: s.publicURL(r), Version: s.opt.Version, Began: s.began, Now: time.Now().UTC()}
	var err error
	if p.Info, err = s.host.Info(r.Context()); err != nil {
		return p, fmt.Errorf("ask the host: %w", err)
	}
	if p.Images, err = s.host.Images(r.Context()); err != nil {
		return p, fmt.Errorf("list images: %w", err)
	}
	return p, nil
}

func (s *Server) dashboard(w http.ResponseWriter, r *http.Request) error {
	p, err := s.pageData(r)
	if err != nil {
		return err
	}
	return s.render(w, "dashboard.html", p)
}

func (s *Server) landing(w http.ResponseWriter, r *http.Request) error {
	p, err := s.pageData(r)
	if err != nil {
		return err
	}
	return s.render(w, "landing.html", p)
}
