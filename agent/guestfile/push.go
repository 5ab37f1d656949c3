package guestfile

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/crashpoint"
)

// File is what Push writes.
type File struct {
	// Path is absolute, in the guest; its directory exists.
	Path string
	// Size is how many bytes there are, at most MaxBytes.
	Size uint64
	// SHA256 is their digest, or nil: then it is not checked.
	SHA256 []byte
	// Mode are the permission bits; 0 means DefaultMode.
	Mode uint32
	// UID and GID are the owner in the guest.
	UID, GID uint32
}

// check refuses a file that cannot be. The fields are those of the API's message "start".
func (f File) check() error {
	if err := checkPath("start.path", f.Path); err != nil {
		return err
	}
	if f.Size > MaxBytes {
		return fault.Field("start.size_bytes", "%d is more than %d", f.Size, uint64(MaxBytes))
	}
	if n := len(f.SHA256); n != 0 && n != sha256.Size {
		return fault.Field("start.sha256", "%d bytes must be %d", n, sha256.Size)
	}
	if f.Mode > 0o777 {
		return fault.Field("start.mode", "%#o must be 01..0777", f.Mode)
	}
	return nil
}

// pushScript writes its input beside the place of the file and moves it there when all of it has come: PATH TEMPORARY SIZE MODE OWNER.
// An input that ends early, which is also how the death of the agent is seen, and every error remove what was written. Nothing is written
// before the first line, goLine, has come: a script whose agent died while it was being started may be left without an input that ends,
// and can only be killed.
const pushScript = `read -r go || exit 67
if [ -d "$1" ]; then echo "$1 is a directory" >&2; exit 65; fi
trap 'rm -f "$2"' EXIT
: > "$2" && chmod 0600 "$2" && cat > "$2" || exit 66
n=$(wc -c < "$2")
if [ "$n" -ne "$3" ]; then exit 67; fi
chown "$5" "$2" && chmod "$4" "$2" && mv "$2" "$1" || exit 68`

// goLine begins the input of pushScript.
const goLine = "go\n"

// shortInput is the exit code of pushScript for an input that ended early.
const shortInput = 67

// Push writes a file of a running guest from what r has, and returns the digest of what it wrote. The file appears, or is replaced, at
// once and whole. Errors: faults of the request (INVALID_FIELD), of the phone (NO_SUCH_PHONE, NOT_RUNNING, GUEST_ENDED), of the bytes
// (INVALID_FIELD for their number, DIGEST_MISMATCH), and of the guest (GUEST_REFUSED); r's own.
func (c *Copier) Push(ctx context.Context, id string, f File, r io.Reader) ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if f.Mode == 0 {
		f.Mode = DefaultMode
	}
	in := &announced{r: r, file: f, left: f.Size, hash: sha256.New()}
	if f.Size == 0 {
		if err := in.finish(); err != nil { // before the guest takes the end of nothing for all of it
			return nil, err
		}
	}
	code, said, err := c.run(ctx, id, script{
		text: pushScript,
		args: []string{
			f.Path, f.Path + ".phonehost-" + rand.Text(), strconv.FormatUint(f.Size, 10), fmt.Sprintf("%04o", f.Mode), fmt.Sprintf("%d:%d", f.UID, f.GID),
		},
		opts: container.ExecOptions{Stdin: io.MultiReader(strings.NewReader(goLine), in)},
	})
	crashpoint.Reached("push/ended")
	switch {
	case err != nil:
		return nil, err
	case code == 0:
		return in.hash.Sum(nil), nil
	case code == shortInput && in.err != nil && !errors.Is(in.err, io.EOF):
		return nil, in.err
	}
	return nil, refused(id, "write "+f.Path, code, said)
}

// announced passes on exactly the bytes that were announced. The last one is held back until the others have turned out to be right, so
// that a guest which counts them never takes wrong ones for the file. It is read by one goroutine; err is read after that has ended.
type announced struct {
	r    io.Reader
	file File
	left uint64
	hash hash.Hash
	err  error
}

// Read implements io.Reader.
func (a *announced) Read(p []byte) (int, error) {
	if a.err == nil && a.left == 0 {
		a.err = io.EOF
	}
	if a.err != nil {
		return 0, a.err
	}
	if uint64(len(p)) > a.left {
		p = p[:a.left]
	}
	n, err := io.ReadAtLeast(a.r, p, 1)
	if errors.Is(err, io.EOF) {
		err = fault.Field("chunk", "the file ended %d bytes before its announced size of %d", a.left, a.file.Size)
	}
	if err != nil {
		a.err = err
		return 0, err
	}
	crashpoint.Reached("push/came")
	a.hash.Write(p[:n])
	a.left -= uint64(n)
	if a.left == 0 {
		if err := a.finish(); err != nil {
			a.err = err
			return n - 1, err
		}
		crashpoint.Reached("push/checked")
	}
	return n, nil
}

// finish checks the end of the input: nothing follows, and the digest is right.
func (a *announced) finish() error {
	var more [1]byte
	n, err := io.ReadFull(a.r, more[:])
	if n > 0 {
		return fault.Field("chunk", "more bytes came than the announced size of %d", a.file.Size)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if sum := a.hash.Sum(nil); len(a.file.SHA256) > 0 && !bytes.Equal(sum, a.file.SHA256) {
		return fault.New(errdefs.ErrDataLoss, DigestMismatch, "the file has the SHA-256 %x, and %x was announced", sum, a.file.SHA256)
	}
	return nil
}
