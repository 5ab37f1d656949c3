package applist

import (
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

// TestPackagesOfTheImage goes by what is known of an image, and where nothing is known and the table does not say either, by names alone.
func TestPackagesOfTheImage(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.put("kids", applist.Allow, "com.b")
		l.create("p1", "kids")
		h.installs("p1", "com.android.launcher 10001", "com.a 10002", "com.b 10003") // of an Android that does not tell installers
		l.on("p1")
		l.want("p1", "install:com.a- install:com.b+ 10001+ 10002+ 10004+")
		if s := l.state("p1"); s.Complete || !strings.Contains(s.Problem, "image") {
			t.Errorf("%+v, want the problem", s)
		}
		h.images.read("sha256:1", preinstalled.Packages{Names: map[string]bool{"com.android.launcher": true}})
		l.ImageChanged("sha256:1")
		l.want("p1", "install:com.a- install:com.b+ install:com.android.launcher+ 10001+ 10002- 10003+ 10004-")
		l.put("kids", applist.Allow)
		l.want("p1", "install:com.a- install:com.b- install:com.android.launcher+ 10001+ 10002- 10003- 10004-")
		if s := l.state("p1"); !s.Complete || s.Problem != "" || s.DeniedApps != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// TestTheImageDecides has guests whose lists of packages say otherwise than their image: of a user's app that it came with the image, and of
// one of the image that was updated by a shop that the shop has installed it. What is not read of the image is believed.
func TestTheImageDecides(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		read := func(packed bool, names ...string) preinstalled.Packages {
			p := preinstalled.Packages{Names: map[string]bool{}, UnreadAPEX: packed}
			for _, name := range names {
				p.Names[name] = true
			}
			return p
		}
		h.images.read("sha256:1", read(false, "com.android.launcher", "com.android.web"))
		l := h.begin()
		defer l.end()
		l.put("kids", applist.Allow)
		l.create("p1", "kids")
		h.installs("p1", launcher, "com.android.web 10002 com.android.vending", "com.liar 10003 @system", "com.other 10004 @product")
		l.on("p1")
		l.want("p1", "install:com.android.web+ install:com.liar- install:com.other- 10001+ 10002+ 10003- 10004-")
		if s := l.state("p1"); !s.Complete || s.Problem != "" || s.DeniedApps != 2 {
			t.Errorf("%+v", s)
		}
		answer, err := l.Check("p1", "com.liar")
		if err != nil || answer.Preinstalled || !answer.Installed {
			t.Errorf("%+v, %v", answer, err)
		}

		h.images.read("sha256:1", read(true, "com.android.web"))
		l.ImageChanged("sha256:1")
		l.still()
		l.want("p1", "install:com.android.web+ install:com.liar+ 10001+ 10002+ 10003+ 10004+")

		h.images.read("sha256:1", read(false))
		l.ImageChanged("sha256:1")
		l.still()
		l.want("p1", "install:com.android.web- install:com.liar+ 10001+ 10002- 10003+ 10004+")
		if s := l.state("p1"); !s.Complete || !strings.Contains(s.Problem, "no packages were found in the image") {
			t.Errorf("%+v, want the problem", s)
		}
	})
}

// TestStartWaitsForTheImage starts phones while their image is being read: only one on a list that allows waits for it, and that not forever.
func TestStartWaitsForTheImage(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.images.begin("sha256:1")
		l := h.begin()
		defer l.end()
		l.put("games", applist.Deny, "com.a")
		l.put("kids", applist.Allow)
		for id, list := range map[string]string{"none": "", "denies": "games", "allows": "kids", "off": "kids"} {
			l.create(id, list)
			h.installs(id, launcher, "com.a 10002")
		}
		took := func(id string) time.Duration {
			began := time.Now()
			if r := l.do(operation.PowerOn, id, nil); r.State != operation.Succeeded {
				t.Fatalf("power on %s: %+v", id, r.Failure)
			}
			return time.Since(began)
		}
		usual := took("none")
		if d := took("denies"); d > usual+time.Second {
			t.Errorf("a phone on a list that denies starts in %v, one on none in %v", d, usual)
		}
		if d := took("allows"); d < readyTime || d > usual+readyTime+time.Second {
			t.Errorf("a phone whose image is not read starts in %v, one on no list in %v", d, usual)
		}
		l.still()
		l.want("allows", "10001+ 10002-") // by the table
		if s := l.state("allows"); !s.InForce || !strings.Contains(s.Problem, "they are being read") {
			t.Errorf("%+v, want the problem", s)
		}

		time.AfterFunc(10*time.Second, func() {
			h.images.read("sha256:1", preinstalled.Packages{Names: map[string]bool{"com.a": true}})
			l.ImageChanged("sha256:1")
		})
		if d := took("off"); d < 10*time.Second || d > usual+11*time.Second {
			t.Errorf("a phone whose image is read in 10 s starts in %v", d)
		}
		l.still()
		for _, id := range []string{"off", "allows"} {
			l.want(id, "10001- 10002+")
			if s := l.state(id); !s.InForce || s.Problem != "" {
				t.Errorf("%s: %+v", id, s)
			}
		}
	})
}
