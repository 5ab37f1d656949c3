package gobuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// UsesC reports whether a package of the repository, or with test its test binary, has parts in C for the architecture: its own or
// those of packages that it imports, the standard library's not counted, which has a form without.
func UsesC(ctx context.Context, pkg string, test bool, arch string) (bool, error) {
	args := []string{"list", "-deps", "-json=ImportPath,Standard,CgoFiles"}
	if test {
		args = append(args, "-test")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, Module+"/"+pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOOS=linux", "GOARCH="+arch)
	var err error
	if cmd.Dir, err = Repository(); err != nil {
		return false, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return false, fmt.Errorf("list what %s is made of: %w\n%s", pkg, err, stderr.Bytes())
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Standard bool
			CgoFiles []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("list what %s is made of: %w", pkg, err)
		}
		if !p.Standard && len(p.CgoFiles) > 0 {
			return true, nil
		}
	}
}
