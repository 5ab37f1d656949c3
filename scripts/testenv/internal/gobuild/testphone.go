package gobuild

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Testphone makes testphone.tar, the image archive of both architectures, and returns its path.
func Testphone(ctx context.Context) (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	// Test processes run side by side, and an archive is not read while it is written: each writes its own and renames it.
	made, err := os.CreateTemp(dir, "testphone-*")
	if err != nil {
		return "", fmt.Errorf("make testphone.tar: %w", err)
	}
	made.Close()
	defer os.Remove(made.Name())
	cmd := exec.CommandContext(ctx, "go", "run", "./scripts/testphone/cmd/mkimage", "-o", made.Name())
	if cmd.Dir, err = Repository(); err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make testphone.tar: %w\n%s", err, out)
	}
	path := filepath.Join(dir, "testphone.tar")
	if err := os.Rename(made.Name(), path); err != nil {
		return "", fmt.Errorf("make testphone.tar: %w", err)
	}
	return path, nil
}
