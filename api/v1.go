// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/internal/apihost"
)

// Version 1 is the protocol of CBSD's cbsd-mq-api 0.2 (2021) and 0.4 (2025), as
// its clients use it. Status codes are those of 0.4, odd as some are: a refusal
// is 405, and what is not found is 200 with a message, because a client that
// polls (mybee-qt) shows the code alone for anything else.

// stopPatience is how long a stop may keep its request waiting; it goes on
// after the answer.
const stopPatience = 2 * time.Second

func (s *Server) routesV1() {
	v1 := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.failV1(w, r, err)
			}
		})
	}
	v1("POST /api/v1/create/{id...}", s.create)
	v1("GET /api/v1/status/{id...}", s.status)
	v1("GET /api/v1/start/{id...}", s.start)
	v1("GET /api/v1/stop/{id...}", s.stop)
	v1("GET /api/v1/destroy/{id...}", s.destroy)
	v1("GET /api/v1/cluster", s.cluster)
	v1("GET /api/v1/k8scluster", s.emptyCluster)
	v1("/api/", func(_ http.ResponseWriter, r *http.Request) error {
		return refuse(http.StatusNotFound, "No such route: %s %.80q; see /", r.Method, r.URL.Path)
	})
	v1("GET /images", s.images)
	v1("GET /flavors", s.flavors)
	v1("GET /profiles", s.profiles)
	v1("GET /status", s.dashboard)
	v1("GET /{$}", s.landing)
	s.mux.Handle("GET /metrics", s.metricsHandler())
}

// answer writes v as version 1 does: indented, with a newline.
func answer(w http.ResponseWriter, status int, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, err = w.Write(append(b, '\n'))
	if err != nil {
		return nil // the client is gone: nobody is left to be told
	}
	return nil
}

// say writes {"Message":"..."} on one line, as the original does: there are
// clients that compare the text.
func say(w http.ResponseWriter, status int, text string) {
	b, _ := json.Marshal(struct{ Message string }{text}) // a struct of one string cannot fail
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone cannot be told
}

// failV1 answers an error: a refusal in its own words, what the host refuses
// with its reason, all else with no more than what was tried.
func (s *Server) failV1(w http.ResponseWriter, r *http.Request, err error) {
	var re *requestError
	var fe *skep.FieldError
	status, text := http.StatusInternalServerError, err.Error()
	switch {
	case errors.As(err, &re):
		status = re.status
	case errors.As(err, &fe):
		status = v1Refused
	case errors.Is(err, skep.ErrExists):
		status, text = v1Refused, "vm already exist"
	case errors.Is(err, skep.ErrNotFound):
		status, text = http.StatusOK, "not found"
	case errors.Is(err, skep.ErrBusy), errors.Is(err, skep.ErrNoSpace), errors.Is(err, errors.ErrUnsupported):
		status = v1Refused
	default:
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	say(w, status, text)
}

// caller checks the header cid, and the id of the path where there is one.
func (s *Server) caller(r *http.Request) (cid, id string, err error) {
	cid, id = r.Header.Get("cid"), r.PathValue("id")
	if id != "" || strings.Count(r.URL.Path, "/") > 3 {
		if err := checkID(id); err != nil {
			return "", "", err
		}
	}
	if err := checkCID(cid); err != nil {
		return "", "", err
	}
	if s.allowed != nil && !s.allowed[cid] {
		return "", "", refuse(v1Refused, "not allowed")
	}
	return cid, id, nil
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) error {
	q, err := parseCreate(r.PathValue("id"), r.Body)
	if err != nil {
		return err
	}
	if s.allowed != nil && !s.allowed[q.CID] {
		return refuse(v1Refused, "not allowed")
	}
	spec, err := specOf(q)
	if err != nil {
		return err
	}
	list, err := s.host.Images(r.Context())
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	spec.Image = imageNamed(list, q.Image)
	st, err := s.createFree(r.Context(), spec)
	if errors.Is(err, skep.ErrNotFound) { // nothing else of a create can be missing
		return refuse(v1Refused, "No such image: %s; this host has: %s", q.Image, strings.Join(imageNames(list), ", "))
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, createAnswer(s.publicURL(r), q.CID, st.Spec.Name, q.Legacy))
}

// imageNamed finds the image that a client means: by its name, or, as mybee-qt
// does, by its profile. Other words may be aliases, which the host knows.
func imageNamed(list []skep.Image, want string) string {
	for _, i := range list {
		if i.Name == want {
			return want
		}
	}
	for _, i := range list {
		if i.Profile == want {
			return i.Name
		}
	}
	return want
}

func imageNames(list []skep.Image) []string {
	names := make([]string, 0, len(list))
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// createFree creates spec; without a name it takes the first free of vm1..vm255.
func (s *Server) createFree(ctx context.Context, spec skep.MachineSpec) (skep.Status, error) {
	if spec.Name != "" {
		return s.host.Create(ctx, spec)
	}
	taken := map[string]bool{}
	for _, st := range s.host.List(spec.Namespace) {
		taken[st.Spec.Name] = true
	}
	for i := 1; i <= 255; i++ {
		if spec.Name = fmt.Sprintf("vm%d", i); taken[spec.Name] {
			continue
		}
		// Another request may have taken it meanwhile: then the next is tried.
		if st, err := s.host.Create(ctx, spec); !errors.Is(err, skep.ErrExists) {
			return st, err
		}
	}
	return skep.Status{}, refuse(v1Refused, "No free name: vm1 to vm255 are all taken")
}

// specOf turns the words of version 1 into a specification.
func specOf(q *createRequest) (skep.MachineSpec, error) {
	if q.Type == "jail" {
		return skep.MachineSpec{}, refuse(v1Refused, "This host makes virtual machines only: jails are not offered")
	}
	spec := skep.MachineSpec{
		Namespace: q.CID, Name: q.ID, Image: q.Image, CPUs: q.CPUs, Memory: int64(q.RAM), Disk: int64(q.Disk),
		Keys: []string{strings.TrimRight(q.Pubkey, "\r\n")}, Hostname: q.Hostname, Packages: q.Packages, Labels: map[string]string{},
	}
	for k, v := range map[string]string{"email": q.Email, "callback": q.Callback, "extras": q.Extras, "node": q.Node} {
		if v != "" {
			spec.Labels[k] = v
		}
	}
	return spec, nil
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	cid, id, err := s.caller(r)
	if err != nil {
		return err
	}
	st, err := s.host.Status(cid, id)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, statusAnswer(st))
}

func (s *Server) start(w http.ResponseWriter, r *http.Request) error {
	cid, id, err := s.caller(r)
	if err != nil {
		return err
	}
	if err := s.host.Do(r.Context(), cid, id, func(ctx context.Context, m apihost.Machine) error { return m.Start(ctx) }); err != nil {
		return err
	}
	say(w, http.StatusOK, "started")
	return nil
}

// stop presses the power button and answers; a guest that does not listen is
// ended by force when its time is over.
func (s *Server) stop(w http.ResponseWriter, r *http.Request) error {
	cid, id, err := s.caller(r)
	if err != nil {
		return err
	}
	if _, err := s.host.Status(cid, id); err != nil {
		return err
	}
	done := s.background("stop "+cid+"/"+id, func(ctx context.Context) error {
		return s.host.Do(ctx, cid, id, func(ctx context.Context, m apihost.Machine) error { return m.Stop(ctx, skep.StopOptions{}) })
	})
	select {
	case err := <-done:
		if err != nil {
			return err
		}
	case <-time.After(stopPatience):
	case <-r.Context().Done():
	}
	say(w, http.StatusOK, "stopped")
	return nil
}

func (s *Server) destroy(w http.ResponseWriter, r *http.Request) error {
	cid, id, err := s.caller(r)
	if err != nil {
		return err
	}
	// A client that hangs up must not leave half a machine.
	err = <-s.background("destroy "+cid+"/"+id, func(ctx context.Context) error {
		return s.host.Do(ctx, cid, id, func(ctx context.Context, m apihost.Machine) error { return m.Destroy(ctx) })
	})
	if err != nil {
		return err
	}
	say(w, http.StatusOK, "destroy")
	return nil
}

func (s *Server) cluster(w http.ResponseWriter, r *http.Request) error {
	cid, _, err := s.caller(r)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, clusterAnswer(s.host.List(cid)))
}

// emptyCluster answers for the kinds of cluster that this host has none of.
func (s *Server) emptyCluster(w http.ResponseWriter, r *http.Request) error {
	if _, _, err := s.caller(r); err != nil {
		return err
	}
	return answer(w, http.StatusOK, struct{}{})
}

func (s *Server) images(w http.ResponseWriter, r *http.Request) error {
	list, err := s.host.Images(r.Context())
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	return answer(w, http.StatusOK, map[string][]string{"images": imageNames(list)})
}

func (s *Server) flavors(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, flavorsAnswer(s.host.Flavors()))
}

func (s *Server) profiles(w http.ResponseWriter, r *http.Request) error {
	list, err := s.host.Images(r.Context())
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	info, err := s.host.Info(r.Context())
	if err != nil {
		return fmt.Errorf("ask the host: %w", err)
	}
	return answer(w, http.StatusOK, profilesAnswer(list, info))
}
