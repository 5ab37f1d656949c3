package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// fresh is how long an index of the mirror is good for, unless the request says otherwise.
const fresh = time.Hour

// state is an apt of one architecture and one list of suites, in a directory of its own:
//
//	apt.conf, sources.list, status   what makes apt work here and nowhere else
//	lists/, cache/                   apt's own
//	updated                          its modification time is that of the last good update
type state struct {
	dir     string
	config  string
	request Request
	lock    *asset.Lock
	updated time.Time // of the indexes that are here
}

// state opens the apt for req and locks it. The caller closes it.
func (a *Archive) state(ctx context.Context, req Request) (*state, error) {
	if !validArch.MatchString(req.Arch) || len(req.Suites) == 0 {
		return nil, fmt.Errorf("want packages of an architecture such as \"arm64\" from a list of suites, not of %q from %q: %w",
			req.Arch, req.Suites, errdefs.ErrInvalidArgument)
	}
	var sources strings.Builder
	for _, suite := range req.Suites {
		if !validSuite.MatchString(suite) {
			return nil, fmt.Errorf("suite %q: want a name such as \"bookworm-security\": %w", suite, errdefs.ErrInvalidArgument)
		}
		base, err := a.base(ctx, archiveOf(suite))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&sources, "deb [signed-by=%s] %s %s main\n", keyring, base, suite)
	}
	name := "apt-" + req.Arch + "-" + string(asset.Hash(sources.String())[:16])
	s := &state{dir: filepath.Join(a.apt, name), request: req}
	s.config = filepath.Join(s.dir, "apt.conf")
	var err error
	waiting := func(holders string) { a.log.Debug("waiting for apt", "state", name, "holder", holders) }
	if s.lock, err = a.cache.Lock(ctx, waiting, name); err != nil {
		return nil, err
	}
	if err := s.write(sources.String()); err != nil {
		s.close()
		return nil, fmt.Errorf("make a private apt: %w", err)
	}
	return s, nil
}

var (
	validArch  = regexp.MustCompile(`^[a-z0-9]+$`)
	validSuite = regexp.MustCompile(`^[a-z0-9][a-z0-9./-]*$`)
)

func (s *state) close() { s.lock.Close() }

func (s *state) write(sources string) error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{"sources.list": sources, "status": "", "apt.conf": aptConfig(s.dir, s.request.Arch)}
	for name, text := range files {
		path := filepath.Join(s.dir, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// aptConfig is read after the host's own configuration, which may name a proxy: what would touch the host is taken back.
func aptConfig(dir, arch string) string {
	return fmt.Sprintf(`APT::Architecture "%[2]s";
#clear APT::Architectures;
APT::Architectures {"%[2]s";};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "%[1]s";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::Log "%[1]s";
`, dir, arch)
}

// apt runs apt-get in this state.
func (s *state) apt(ctx context.Context, args ...string) ([]byte, error) {
	return host.Output(ctx, "apt-get", append([]string{"-c", s.config}, args...)...)
}

// update asks the mirror for its indexes, unless those that are here are young enough. It sets updated.
func (s *state) update(ctx context.Context) error {
	oldest := s.request.NotBefore
	if oldest.IsZero() {
		oldest = time.Now().Add(-fresh)
	}
	stamp := filepath.Join(s.dir, "updated")
	if info, err := os.Stat(stamp); err == nil && info.ModTime().After(oldest) {
		s.updated = info.ModTime()
		return nil
	}
	if err := os.Remove(stamp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("update a private apt: %w", err)
	}
	if _, err := s.apt(ctx, "-q", "--error-on=any", "update"); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("take the indexes of the mirror: %w", cause)
		}
		return s.explain(err)
	}
	err := os.WriteFile(stamp, nil, 0o644)
	if err != nil {
		return fmt.Errorf("update a private apt: %w", err)
	}
	info, err := os.Stat(stamp)
	if err != nil {
		return fmt.Errorf("update a private apt: %w", err)
	}
	s.updated = info.ModTime()
	return nil
}

// noRelease is what apt says of a suite that the mirror does not have.
var noRelease = regexp.MustCompile(`The repository '\S+ (\S+) Release' (?:does not|no longer) ha(?:ve|s) a Release file`)

// explain says what an update that went wrong means.
func (s *state) explain(err error) error {
	text := host.Stderr(err)
	if m := noRelease.FindStringSubmatch(text); m != nil && !unreachable.MatchString(text) {
		return fmt.Errorf("the mirror has no suite %q: the suites are named in scripts/vm/lab.toml, the mirror in apt's sources or PHONEHOST_VM_MIRROR: %w: %w",
			m[1], errdefs.ErrNotFound, err)
	}
	if strings.Contains(text, "Unable to find expected entry 'main/binary-") {
		return fmt.Errorf("the mirror has no packages for %s in one of the suites %s of scripts/vm/lab.toml: %w: %w",
			s.request.Arch, strings.Join(s.request.Suites, ", "), errdefs.ErrNotFound, err)
	}
	return fmt.Errorf("take the indexes of %s for %s from the mirror (it is named in apt's sources or PHONEHOST_VM_MIRROR): %w: %w",
		strings.Join(s.request.Suites, ", "), s.request.Arch, errdefs.ErrUnavailable, err)
}

// unreachable is what apt says of a mirror that does not answer.
var unreachable = regexp.MustCompile(`Could not (resolve|connect)|Unable to connect|Connection (failed|timed out|refused)|Temporary failure`)
