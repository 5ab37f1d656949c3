package main

import (
	"context"
	"errors"
	"path"
	"path/filepath"

	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/vm/payload"
	"github.com/phonehost/phonehost/scripts/vm/ready"
)

// Places in the machine: the payload is unpacked at payloadDir.
const (
	payloadDir    = "/run/payload"
	programDir    = payloadDir + "/bin"
	unitsDir      = "scripts/systemd"
	installScript = payloadDir + "/src/" + unitsDir + "/install"

	// guestPath is the PATH in a machine: what was installed there comes before what was brought.
	guestPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + programDir
)

// pureMains are the programs that run on every machine, systemMains those that need the libraries of a system machine.
var (
	pureMains   = []string{"agent/cmd/phonehostd", "agent/cmd/phonectl", "runtime/cmd/phone-log"}
	systemMains = []string{"encoder/cmd/phone-display"}
)

// packPrograms builds the programs for a machine and packs them, where the tests have them too:
//
//	bin/                    phonehostd, phonectl, phone-log, testphone.tar, on a system machine phone-display
//	src/scripts/systemd/    on a system machine: the units, and install
func packPrograms(ctx context.Context, source *ready.Source, spec ready.Spec, out string) error {
	w, err := payload.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(fillPrograms(ctx, w, source, spec), w.Close())
}

func fillPrograms(ctx context.Context, w *payload.Writer, source *ready.Source, spec ready.Spec) error {
	mains := pureMains
	if spec.System {
		mains = append(mains[:len(mains):len(mains)], systemMains...)
		repo, err := gobuild.Repository()
		if err != nil {
			return err
		}
		if err := w.Add(path.Join("src", unitsDir), filepath.Join(repo, unitsDir)); err != nil {
			return err
		}
	}
	for _, pkg := range mains {
		program, err := source.Build(ctx, spec, pkg, false)
		if err != nil {
			return err
		}
		if err := w.Add(path.Join("bin", path.Base(pkg)), program); err != nil {
			return err
		}
	}
	image, err := gobuild.Testphone(ctx)
	if err != nil {
		return err
	}
	return w.Add(path.Join("bin", filepath.Base(image)), image)
}
