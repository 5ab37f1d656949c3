package vm

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"

	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/payload"
)

// pack builds what the machine is given and returns the path of the tar file:
//
//	package.test        the test binary
//	bin/                programs, testphone.tar
//	src/                the repository: go.mod, the package's testdata, files that were asked for
//	artifacts/          empty
func (p *process) pack(ctx context.Context, t *testing.T) (string, error) {
	binary := ""
	if p.pkg != "" {
		var err error
		if binary, err = p.compile(ctx, p.pkg, true); err != nil {
			return "", err
		}
	}
	repo, err := gobuild.Repository()
	if err != nil {
		return "", err
	}
	out := filepath.Join(t.TempDir(), "payload.tar")
	w, err := payload.Create(out)
	if err != nil {
		return "", err
	}
	err = errors.Join(p.fill(ctx, w, repo, binary), w.Close())
	return out, err
}

func (p *process) fill(ctx context.Context, w *payload.Writer, repo, binary string) error {
	if binary != "" {
		if err := p.addTests(w, repo, binary); err != nil {
			return err
		}
	}
	if err := addFiles(w, repo, append([]string{"go.mod"}, p.settings.files...)); err != nil {
		return err
	}
	for _, dir := range []string{programDir, artifactDir} {
		if err := w.Mkdir(dir); err != nil {
			return err
		}
	}
	for _, pkg := range p.settings.programs {
		program, err := p.compile(ctx, path.Clean(pkg), false)
		if err != nil {
			return err
		}
		if err := w.Add(path.Join(programDir, path.Base(pkg)), program); err != nil {
			return err
		}
	}
	for _, pkg := range p.settings.compat {
		arch := map[string]string{"amd64": "386", "arm64": "arm"}[p.target.Arch]
		program, err := gobuild.Build(ctx, gobuild.Pure(path.Clean(pkg), arch))
		if err != nil {
			return err
		}
		if err := w.Add(path.Join(programDir, path.Base(pkg)+"-"+arch), program); err != nil {
			return err
		}
	}
	if !p.settings.testphone {
		return nil
	}
	archive, err := testphone()
	if err != nil {
		return err
	}
	return w.Add(path.Join(programDir, filepath.Base(archive)), archive)
}

// addTests adds the test binary, its working directory and the testdata in it.
func (p *process) addTests(w *payload.Writer, repo, binary string) error {
	if err := w.Add(testBinary, binary); err != nil {
		return err
	}
	if err := w.Mkdir(path.Join(sourceDir, p.pkg)); err != nil {
		return err
	}
	data := path.Join(p.pkg, "testdata")
	if _, err := os.Stat(filepath.Join(repo, data)); err != nil {
		return nil
	}
	return addFiles(w, repo, []string{data})
}

// addFiles adds files and directories of the repository.
func addFiles(w *payload.Writer, repo string, files []string) error {
	for _, f := range files {
		if err := w.Add(path.Join(sourceDir, path.Clean(f)), filepath.Join(repo, f)); err != nil {
			return err
		}
	}
	return nil
}

// testphone makes testphone.tar once for all tests of the process: the end of one test does not end it.
var testphone = sync.OnceValues(func() (string, error) { return gobuild.Testphone(context.Background()) })

// fetchArtifacts brings the artifacts that a test left in dir of the machine into the test's own directory here.
func fetchArtifacts(ctx context.Context, t *testing.T, g guest, dir string) {
	t.Helper()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := unpack(r, t.ArtifactDir())
		r.CloseWithError(err)
		done <- err
	}()
	code, err := g.Exec(ctx, control.Command{Args: []string{"tar", "-c", "-C", dir, "."}, Stdout: w})
	w.CloseWithError(err)
	if err := errors.Join(err, <-done); err != nil || code != 0 {
		t.Errorf("fetch the artifacts of this test: tar exited with code %d: %v", code, err)
	}
}

// unpack writes the regular files and directories of a tar stream below dir, and nothing outside of it.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the directory of artifacts: %w", err)
	}
	defer root.Close()
	files := tar.NewReader(r)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return fmt.Errorf("read artifacts: %w", err)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = unpackFile(root, name, files)
		}
		if err != nil {
			return fmt.Errorf("unpack artifact %s: %w", name, err)
		}
	}
}

func unpackFile(root *os.Root, name string, from io.Reader) error {
	file, err := root.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, from); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
