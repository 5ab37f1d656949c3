package phone

import (
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
)

// fits returns why a phone cannot have an image: it is for another profile, or older than the data that it would be started with. An
// image that says nothing of a matter fits, and for a phone that was created with another profile than its image names, so does another
// image that names the same. The zero Image means that the phone keeps its own.
func (img Image) fits(r *Record, dataAndroid string) error {
	id := r.Spec.ID
	if img.Profile != "" && img.Profile != r.Spec.Profile && img.Profile != r.ImageProfile {
		return fault.New(errdefs.ErrFailedPrecondition, fault.WrongProfile,
			"phone %s has the profile %s, and image %s is for %s: take an image of its profile, or create another phone",
			id, r.Spec.Profile, fault.Clip(img.Name), fault.Clip(img.Profile))
	}
	if newerAndroid(dataAndroid, img.AndroidVersion) {
		return fault.New(errdefs.ErrFailedPrecondition, fault.DataNewer,
			"the data of phone %s was used with Android %s, and image %s is Android %s: data cannot go back; reset the phone to the image, which destroys the data",
			id, fault.Clip(dataAndroid), fault.Clip(img.Name), fault.Clip(img.AndroidVersion))
	}
	return nil
}

// take gives the phone an image; the zero Image leaves it its own.
func (r *Record) take(img Image) {
	if img.Digest == "" {
		return
	}
	r.Spec.Image, r.ImageDigest, r.ImageAndroid, r.ImageProfile = img.Name, img.Digest, img.AndroidVersion, img.otherProfile(r.Spec)
}

// otherProfile returns the profile that the image names where a phone has another, or "".
func (img Image) otherProfile(s Spec) string {
	if img.Profile == s.Profile {
		return ""
	}
	return img.Profile
}

// newerAndroid reports whether version a is newer than b: numbers that dots separate, compared one by one, where one that is missing is
// 0. What is no such version, or empty, is newer than nothing, nor is anything newer.
func newerAndroid(a, b string) bool {
	x, knownA := androidNumbers(a)
	y, knownB := androidNumbers(b)
	if !knownA || !knownB {
		return false
	}
	for i := range max(len(x), len(y)) {
		var m, n uint64
		if i < len(x) {
			m = x[i]
		}
		if i < len(y) {
			n = y[i]
		}
		if m != n {
			return m > n
		}
	}
	return false
}

func androidNumbers(version string) (numbers []uint64, known bool) {
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, true
}
