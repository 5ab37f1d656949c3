package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// program is the import path of the one program in the image.
const program = "github.com/phonehost/phonehost/scripts/testphone/cmd/testphone"

// Build compiles the program for an architecture with the go command and returns its bytes. It is static and the same for the same source
// and toolchain. The working directory must be in the repository.
func Build(ctx context.Context, arch, version string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "testphone-build-")
	if err != nil {
		return nil, fmt.Errorf("build for %s: %w", arch, err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "testphone")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid= -X main.version="+version, "-o", out, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=")
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &messages, &messages
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build for %s: %w\n%s", arch, err, messages.Bytes())
	}
	return os.ReadFile(out)
}
