// Command mkimage builds the testphone image into an OCI archive.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/phonehost/phonehost/scripts/testphone/image"
)

var version = "dev"

func main() {
	out := flag.String("o", "out/testphone.tar", "archive to write")
	archs := flag.String("arch", strings.Join(image.Architectures(), ","), "architectures, comma separated")
	label := flag.String("version", version, "version written into the image")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(context.Background(), *out, strings.Split(*archs, ","), *label); err != nil {
		fmt.Fprintf(os.Stderr, "mkimage: %v\n", err)
		os.Exit(1)
	}
}

// run writes the archive beside its place and renames it, so that it is whole or not there.
func run(ctx context.Context, out string, archs []string, version string) error {
	cfg := image.Config{Version: version, Programs: map[string][]byte{}}
	for _, arch := range archs {
		program, err := image.Build(ctx, arch, version)
		if err != nil {
			return err
		}
		cfg.Programs[arch] = program
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".testphone-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = image.Write(f, cfg)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), out)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	fmt.Println(out)
	return nil
}
