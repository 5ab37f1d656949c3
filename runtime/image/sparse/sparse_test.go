package sparse_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/image/sparse"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// memory is a target in memory.
type memory struct{ data []byte }

func (m *memory) Truncate(size int64) error {
	m.data = append(m.data[:min(int(size), len(m.data))], make([]byte, max(0, int(size)-len(m.data)))...)
	return nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if int(off)+len(p) > len(m.data) {
		return 0, errors.New("a write after the end")
	}
	return copy(m.data[off:], p), nil
}

// file builds a sparse image of blocks of 4 KiB.
type file struct {
	block, blocks, chunks uint32
	body                  bytes.Buffer
}

func (f *file) chunk(kind uint16, blocks uint32, data []byte) *file {
	f.chunks++
	for _, v := range []any{kind, uint16(0), blocks, uint32(12 + len(data)), data} {
		if err := binary.Write(&f.body, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	f.blocks += blocks
	return f
}

func (f *file) bytes() []byte {
	if f.block == 0 {
		f.block = 4096
	}
	var out bytes.Buffer
	for _, v := range []any{uint32(sparse.Magic), uint16(1), uint16(0), uint16(28), uint16(12), f.block, f.blocks, f.chunks, uint32(0), f.body.Bytes()} {
		if err := binary.Write(&out, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}

func some(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*7 + i>>8 + 1)
	}
	return data
}

func TestExpandEachKindOfChunk(t *testing.T) {
	f := new(file).chunk(0xcac1, 2, some(8192)).chunk(0xcac3, 3, nil).chunk(0xcac2, 2, []byte{1, 2, 3, 4}).chunk(0xcac2, 1, make([]byte, 4)).
		chunk(0xcac4, 0, []byte{9, 9, 9, 9}).chunk(0xcac1, 1, some(4096))
	want := append(some(8192), make([]byte, 3*4096)...)
	want = append(want, bytes.Repeat([]byte{1, 2, 3, 4}, 2*1024)...)
	want = append(want, make([]byte, 4096)...)
	want = append(want, some(4096)...)
	for name, src := range map[string]io.Reader{"at once": bytes.NewReader(f.bytes()), "byte by byte": iotest.OneByteReader(bytes.NewReader(f.bytes()))} {
		var got memory
		size, err := sparse.Expand(&got, src, 1<<20)
		if err != nil || size != int64(len(want)) || !bytes.Equal(got.data, want) {
			t.Errorf("%s: %d bytes, %v", name, size, err)
		}
	}
}

func TestExpandPassesLongerHeadersBy(t *testing.T) {
	raw := new(file).chunk(0xcac1, 1, some(4096)).bytes()
	longer := append([]byte{}, raw[:28]...)
	binary.LittleEndian.PutUint16(longer[6:], 7) // a later minor version
	binary.LittleEndian.PutUint16(longer[8:], 32)
	binary.LittleEndian.PutUint16(longer[10:], 16)
	longer = append(longer, 1, 2, 3, 4)
	chunk := append([]byte{}, raw[28:40]...)
	binary.LittleEndian.PutUint32(chunk[8:], 16+4096)
	longer = append(append(append(longer, chunk...), 5, 6, 7, 8), some(4096)...)
	var got memory
	if _, err := sparse.Expand(&got, bytes.NewReader(longer), 1<<20); err != nil || !bytes.Equal(got.data, some(4096)) {
		t.Errorf("%d bytes, %v", len(got.data), err)
	}
}

func TestExpandRefuses(t *testing.T) {
	change := func(at int, bytes ...byte) []byte {
		raw := new(file).chunk(0xcac1, 2, some(8192)).chunk(0xcac2, 1, []byte{1, 2, 3, 4}).bytes()
		copy(raw[at:], bytes)
		return raw
	}
	whole := change(0)
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"nothing", nil, "cut off"},
		{"half a header", whole[:20], "cut off"},
		{"half a chunk's header", whole[:34], "cut off"},
		{"half a chunk", whole[:5000], "cut off"},
		{"without its last chunk", whole[:28+12+8192], "cut off"},
		{"more than it says", append(append([]byte{}, whole...), 0), "after its last chunk"},
		{"another magic", change(0, 0), "begins with"},
		{"another version", change(4, 2), "version 2.0"},
		{"a short header", change(8, 27), "headers are 27"},
		{"a huge header", change(8, 0xff, 0xff), "headers are 65535"},
		{"a short chunk header", change(10, 8), "and 8 bytes"},
		{"blocks of nothing", change(12, 0, 0, 0, 0), "blocks are 0"},
		{"uneven blocks", change(12, 1), "blocks are 4097"},
		{"huge blocks", change(12, 0, 0, 0, 0x80), "multiple of 4"},
		{"more blocks than chunks", change(16, 9), "chunks are 3 blocks, its header says 9"},
		{"fewer blocks than chunks", change(16, 2), "block 3 of 2"},
		{"more chunks than there are", change(20, 9), "cut off"},
		{"a chunk of an unknown kind", change(28, 0xff), "unknown kind"},
		{"a chunk with another size", change(36, 0), "but 2 blocks of kind"},
		{"a chunk of 4 Gi blocks", change(32, 0xff, 0xff, 0xff, 0xff), "of 3"},
		{"a checksum that stands for blocks", new(file).chunk(0xcac4, 1, make([]byte, 4)).bytes(), "a checksum stands for"},
		{"larger than allowed", new(file).chunk(0xcac3, 1000, nil).bytes(), "more than"},
		{"as large as can be said", change(16, 0xff, 0xff, 0xff, 0xff), "more than"},
	} {
		_, err := sparse.Expand(&memory{}, bytes.NewReader(tt.file), 1<<20)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestExpandReturnsOthersErrors(t *testing.T) {
	broken := errors.New("the caller left")
	src := io.MultiReader(bytes.NewReader(new(file).chunk(0xcac1, 2, some(8192)).bytes()[:5000]), iotest.ErrReader(broken))
	if _, err := sparse.Expand(&memory{}, src, 1<<20); !errors.Is(err, broken) || errdefs.IsInvalidArgument(err) {
		t.Errorf("an error of the source: %v", err)
	}
}

// TestExpandsWhatImg2simgMakes compares with Android's own tools on a file with holes, fills and data.
func TestExpandsWhatImg2simgMakes(t *testing.T) {
	dir := t.TempDir()
	raw, packed := filepath.Join(dir, "raw"), filepath.Join(dir, "packed")
	content := make([]byte, 24<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < len(content); {
		n := min(len(content)-at, (1+random.IntN(200))*4096)
		switch random.IntN(3) {
		case 0: // zeros
		case 1:
			copy(content[at:at+n], bytes.Repeat([]byte{byte(random.Uint32()), 2, 3, 4}, n/4))
		default:
			for i := range content[at : at+n] {
				content[at+i] = byte(random.Uint32())
			}
		}
		at += n
	}
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "img2simg"), raw, packed).CombinedOutput(); err != nil {
		t.Fatalf("img2simg: %v: %s", err, out)
	}
	src, err := os.Open(packed)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(dir, "expanded"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	size, err := sparse.Expand(dst, src, 1<<30)
	if err != nil || size != int64(len(content)) {
		t.Fatalf("%d bytes, %v", size, err)
	}
	got, err := os.ReadFile(dst.Name())
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("what was expanded differs: %v", err)
	}
	info, err := dst.Stat()
	if err != nil {
		t.Fatal(err)
	}
	zeros := 0
	for at := 0; at < len(content); at += 4096 {
		if len(bytes.Trim(content[at:at+4096], "\x00")) == 0 {
			zeros += 4096
		}
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > int64(len(content)-zeros)+1<<20 {
		t.Errorf("%d bytes on the disk of %d, of which %d are zeros", used, len(content), zeros)
	}
}

// FuzzExpand expands whatever comes, to at most 1 MiB.
func FuzzExpand(f *testing.F) {
	f.Add(new(file).chunk(0xcac1, 1, some(4096)).chunk(0xcac3, 3, nil).chunk(0xcac2, 2, []byte{1, 2, 3, 4}).chunk(0xcac4, 0, make([]byte, 4)).bytes())
	f.Add(new(file).chunk(0xcac3, 0xffffffff, nil).bytes())
	small := &file{block: 4}
	f.Add(small.chunk(0xcac1, 2, some(8)).chunk(0xcac2, 100, []byte{1, 0, 0, 0}).bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		var got memory
		size, err := sparse.Expand(&got, bytes.NewReader(data), 1<<20)
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v", err)
		}
		if err == nil && (size > 1<<20 || size != int64(len(got.data))) {
			t.Errorf("%d bytes of %d", size, len(got.data))
		}
	})
}
