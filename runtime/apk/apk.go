package apk

import (
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
)

// Info is what an APK says of itself. Text is free of control characters and at most 1000 characters long.
type Info struct {
	// Package is the name, checked by Android's rule: letters, digits and '_' in at least two parts that begin with a letter, at most 223
	// characters. It is safe as a part of a path.
	Package string
	// VersionCode is versionCodeMajor in the upper 32 bits and versionCode in the lower, as PackageInfo.getLongVersionCode; 0 if none is
	// given.
	VersionCode int64
	VersionName string
	// Label is the application's name for people, in the default language. It is empty where the APK names none, or names one that is not
	// in it (a resource of the framework or of another split).
	Label string

	// MinSDK and TargetSDK are API levels; 1 for MinSDK and MinSDK for TargetSDK where the APK says nothing. MinSDK is 0 where it is the
	// name of a preview release, which is then in MinSDKPreview: released Androids do not take such an APK. Likewise for TargetSDK.
	MinSDK, TargetSDK               int
	MinSDKPreview, TargetSDKPreview string

	// Split is empty for a base APK. ConfigForSplit is the split whose configuration this split holds, empty for the base's.
	Split          string
	ConfigForSplit string
	// FeatureSplit says that the split adds code, and not the resources for some configuration.
	FeatureSplit bool
	// RequiresSplits says that a base APK does not work without its splits. RequiredSplitTypes are the kinds of split that must be there,
	// and SplitTypes those that this one is of (Android 13).
	RequiresSplits                 bool
	RequiredSplitTypes, SplitTypes []string

	Debuggable bool
	// TestOnly APKs are installed with `pm install -t` only.
	TestOnly     bool
	SharedUserID string
	// ABIs are the directories below lib/ that hold shared objects, sorted; none for an APK that runs on every processor.
	ABIs []string
	// Permissions are those asked for, in order, each once.
	Permissions []string
	// Activity is the class of the first enabled activity, or alias of one, that a launcher shows; empty if there is none.
	Activity string
	// Activities are the classes of all activities and aliases, in order.
	Activities []string

	// Signers are the signatures found, by scheme. None means that the APK is not signed. They are not verified.
	Signers []Signer
}

// Base says that this is a base APK and not a split.
func (i *Info) Base() bool { return i.Split == "" }

// Schemes lists the signature schemes present, each once, from the oldest.
func (i *Info) Schemes() []Scheme {
	var list []Scheme
	for _, s := range i.Signers {
		if !slices.Contains(list, s.Scheme) {
			list = append(list, s.Scheme)
		}
	}
	slices.Sort(list)
	return list
}

// Certificates lists the certificates of the newest scheme present, which is the one that Android compares on an update, sorted and each
// once. The digest is that of the certificate in DER, as `apksigner verify --print-certs` prints it.
func (i *Info) Certificates() []Digest {
	schemes := i.Schemes()
	if len(schemes) == 0 {
		return nil
	}
	var list []Digest
	for _, s := range i.Signers {
		if s.Scheme == schemes[len(schemes)-1] {
			list = append(list, s.Certificate)
		}
	}
	slices.SortFunc(list, Digest.compare)
	return slices.Compact(list)
}

// Read reads an APK of size bytes. Errors: errdefs.ErrInvalidArgument for what is not an APK that Android would take, with what it is and
// what to do; the reader's own otherwise. Read makes many small reads; r should be quick, a file or memory.
func Read(r io.ReaderAt, size int64) (*Info, error) {
	archive, err := openArchive(r, size)
	if err != nil {
		return nil, err
	}
	manifest, ok := archive.files[manifestName]
	if !ok {
		return nil, withoutManifest(archive)
	}
	xml, err := archive.read(manifest, maxManifest)
	if err != nil {
		return nil, err
	}
	resources := &lazyTable{archive: archive}
	info, err := parseManifest(xml, resources)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	info.ABIs = archive.abis
	if info.Signers, err = readSigners(archive); err != nil {
		return nil, err
	}
	return info, nil
}

// invalid returns an error of the class errdefs.ErrInvalidArgument.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
