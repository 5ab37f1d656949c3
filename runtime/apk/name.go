package apk

import (
	"errors"
	"fmt"
	"io"
)

// ReadName returns the name of the package that an APK of size bytes is of, base or split, and reads nothing else of it: neither its resources nor
// its signatures. Errors are those of Read; memory is bounded as for Read, without resources.arsc.
func ReadName(r io.ReaderAt, size int64) (string, error) {
	archive, err := openArchive(r, size)
	if err != nil {
		return "", err
	}
	manifest, ok := archive.files[manifestName]
	if !ok {
		return "", withoutManifest(archive)
	}
	xml, err := archive.read(manifest, maxManifest)
	if err != nil {
		return "", err
	}
	name, err := packageOf(xml)
	if err != nil {
		return "", fmt.Errorf("%s: %w", manifestName, err)
	}
	return name, nil
}

// errSeen ends a walk that has seen what it is for.
var errSeen = errors.New("seen")

// rootOnly is the visitor that reads the name from <manifest>.
type rootOnly struct{ manifest }

// packageOf reads the name from AndroidManifest.xml.
func packageOf(b []byte) (string, error) {
	if err := notBinary(b); err != nil {
		return "", err
	}
	v := rootOnly{manifest{info: new(Info)}}
	switch err := walk(b, 0, &v); {
	case errors.Is(err, errSeen):
		return v.info.Package, nil
	case err != nil:
		return "", err
	}
	return "", invalid("it has no element <manifest>")
}

// start implements visitor.
func (v *rootOnly) start(_ int, n node) error {
	if n.name != "manifest" {
		return invalid("its first element is <%.40s>, not <manifest>", clean(n.name))
	}
	if err := v.plainText(n, "package", &v.info.Package); err != nil {
		return err
	}
	if err := checkPackage(v.info.Package); err != nil {
		return err
	}
	return errSeen
}
