package gobuild

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Testphone makes the image archive testphone.tar, of both architectures, and returns its path.
func Testphone(ctx context.Context) (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	repo, err := Repository()
	if err != nil {
		return "", err
	}
	// Processes run side by side, and an archive is not read while it is written: each writes its own and renames it.
	made, err := os.CreateTemp(dir, "testphone-*")
	if err != nil {
		return "", fmt.Errorf("make testphone.tar: %w", err)
	}
	made.Close()
	defer os.Remove(made.Name())
	cmd := exec.CommandContext(ctx, "go", "run", "./scripts/testphone/cmd/mkimage", "-o", made.Name())
	cmd.Dir = repo
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make testphone.tar: %w\n%s", err, out)
	}
	path := filepath.Join(dir, "testphone.tar")
	if err := os.Rename(made.Name(), path); err != nil {
		return "", fmt.Errorf("make testphone.tar: %w", err)
	}
	return path, nil
}
