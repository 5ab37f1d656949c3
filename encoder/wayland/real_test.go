package wayland

import (
	"context"
	"image"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// realTimeout bounds how long a real client may take to do what it should; it is for a test that has failed.
const realTimeout = 60 * time.Second

// start runs a real client against a server, until the test ends.
func start(t *testing.T, s *Server, env []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	tool := testenv.Tool(t, name)
	home := t.TempDir()
	cmd := exec.Command(tool, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + s.cfg.Dir, "LANG=C.UTF-8",
		"WAYLAND_DISPLAY=" + s.cfg.Name, "XDG_CONFIG_HOME=" + home, "XDG_CACHE_HOME=" + home}, env...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, out.String())
		}
	})
	return cmd
}

// waitScreen waits until the screen shows what is wanted.
func waitScreen(t *testing.T, s *Server, what string, wanted func(img *image.RGBA) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), realTimeout)
	defer cancel()
	r := s.cfg.Screen.NewReader()
	defer r.Close()
	for !wanted(s.cfg.Screen.Snapshot()) {
		if err := r.Wait(ctx); err != nil {
			saveScreen(t, s, "failed.png")
			t.Fatalf("the screen never showed %s", what)
		}
		r.Read(func(screen.View) {})
	}
}

// colours returns how many different colours an image has.
func colours(img *image.RGBA) int {
	seen := map[[3]byte]bool{}
	for i := 0; i < len(img.Pix); i += 4 {
		seen[[3]byte(img.Pix[i:])] = true
	}
	return len(seen)
}

func phoneScreen(t *testing.T) *screen.Screen {
	t.Helper()
	sc, err := screen.New(720, 1280)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func TestWestonSimpleShm(t *testing.T) {
	s := serve(t, Config{Screen: phoneScreen(t)})
	start(t, s, nil, "weston-simple-shm")
	waitScreen(t, s, "the moving pattern", func(img *image.RGBA) bool {
		return colours(img) > 50 && img.RGBAAt(360, 640).A == 255
	})
	saveScreen(t, s, "screen.png")
	frames := s.cfg.Screen.Counters().Changed
	waitScreen(t, s, "another frame", func(*image.RGBA) bool { return s.cfg.Screen.Counters().Changed > frames+5 })
}

func TestWestonSimpleTouch(t *testing.T) {
	s := serve(t, Config{Screen: phoneScreen(t)})
	start(t, s, nil, "weston-simple-touch")
	waitScreen(t, s, "its window", func(*image.RGBA) bool { return s.cfg.Screen.HasContent() })
	before := s.cfg.Screen.Snapshot()
	for i := range 40 {
		action, at := TouchMove, float64(300+i)
		if i == 0 {
			action = TouchDown
		}
		if err := s.Touch(0, action, at, at+300); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Touch(0, TouchUp, 340, 640); err != nil {
		t.Fatal(err)
	}
	waitScreen(t, s, "the stroke", func(img *image.RGBA) bool {
		return img.RGBAAt(320, 620) != before.RGBAAt(320, 620)
	})
	saveScreen(t, s, "screen.png")
}

// terminal types a command into a terminal and waits for what it writes to a file.
func terminal(t *testing.T, s *Server, name string, args ...string) {
	dir := t.TempDir()
	start(t, s, []string{"SHELL=/bin/sh", "PS1=> "}, name, args...)
	waitScreen(t, s, "its window", func(img *image.RGBA) bool { return s.cfg.Screen.HasContent() && colours(img) > 1 })
	const text = `The quick brown FOX, jumps: over 13 "lazy" dogs! ~@#$%^&*()_+-=[]{}|;<>?/.` + "`"
	file := filepath.Join(dir, "typed")
	if err := s.Text("cat > " + file + "\n" + text + "\n"); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		code uint32
		down bool
	}{{29, true}, {32, true}, {32, false}, {29, false}} { // Control-D
		if err := s.Key(k.code, k.down); err != nil {
			t.Fatal(err)
		}
	}
	waitScreen(t, s, "the end of cat", func(*image.RGBA) bool {
		got, err := os.ReadFile(file)
		return err == nil && string(got) == text+"\n"
	})
	saveScreen(t, s, "screen.png")
}

func TestFoot(t *testing.T) {
	s := serve(t, Config{Screen: phoneScreen(t), Globals: OptionalGlobals()})
	terminal(t, s, "foot", "--config=/dev/null", "sh")
}

func TestWestonTerminal(t *testing.T) {
	s := serve(t, Config{Screen: phoneScreen(t), Globals: OptionalGlobals()})
	terminal(t, s, "weston-terminal", "--shell=/bin/sh")
}

func TestChromium(t *testing.T) {
	s := serve(t, Config{Screen: phoneScreen(t), Globals: OptionalGlobals()})
	page := filepath.Join(t.TempDir(), "page.html")
	const html = `<body style="margin:0;background:#20c040"><script>
onpointerdown = e => { if (e.pointerType == "touch") document.body.style.background = '#c02080'; e.preventDefault() };
onkeydown = e => { if (e.key == 'Q') document.body.style.background = '#2040c0' };
onwheel = e => { document.body.style.background = '#e0c010' };
</script><h1>phonehost</h1></body>`
	if err := os.WriteFile(page, []byte(html), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, s, nil, "chromium", "--ozone-platform=wayland", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--kiosk",
		"--user-data-dir="+t.TempDir(), "file://"+page)
	middle := func(v uint32) func(img *image.RGBA) bool {
		return func(img *image.RGBA) bool { return img.RGBAAt(360, 900) == rgb(v) }
	}
	waitScreen(t, s, "the page", middle(0x20c040))
	saveScreen(t, s, "page.png")
	if err := s.Touch(3, TouchDown, 360, 800); err != nil {
		t.Fatal(err)
	}
	waitScreen(t, s, "the touched page", middle(0xc02080))
	if err := s.Touch(3, TouchUp, 360, 800); err != nil {
		t.Fatal(err)
	}
	if err := s.Text("Q"); err != nil {
		t.Fatal(err)
	}
	waitScreen(t, s, "the page that got a key", middle(0x2040c0))
	if err := s.Wheel(360, 800, 0, 1); err != nil {
		t.Fatal(err)
	}
	waitScreen(t, s, "the page that got the wheel", middle(0xe0c010))
	saveScreen(t, s, "wheel.png")
}
