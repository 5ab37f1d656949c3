package packages

import (
	"errors"
	"fmt"
	"syscall"
)

// Failure is a refusal in Android's words: what `pm` prints as "Failure [CODE: MESSAGE]".
type Failure struct {
	// Code is one of Android's, such as INSTALL_FAILED_INVALID_APK.
	Code string
	// Message says more; it may be empty.
	Message string
}

func (f *Failure) Error() string {
	if f.Message == "" {
		return f.Code
	}
	return f.Code + ": " + f.Message
}

func failure(code, format string, args ...any) error {
	return &Failure{code, fmt.Sprintf(format, args...)}
}

// The codes that are used here.
const (
	alreadyExists     = "INSTALL_FAILED_ALREADY_EXISTS"
	invalidAPK        = "INSTALL_FAILED_INVALID_APK"
	missingSplit      = "INSTALL_FAILED_MISSING_SPLIT"
	noABI             = "INSTALL_FAILED_NO_MATCHING_ABIS"
	noCertificates    = "INSTALL_PARSE_FAILED_NO_CERTIFICATES"
	notAPK            = "INSTALL_PARSE_FAILED_NOT_APK"
	olderSDK          = "INSTALL_FAILED_OLDER_SDK"
	sharedUser        = "INSTALL_FAILED_SHARED_USER_INCOMPATIBLE"
	storage           = "INSTALL_FAILED_INSUFFICIENT_STORAGE"
	testOnly          = "INSTALL_FAILED_TEST_ONLY"
	incompatible      = "INSTALL_FAILED_UPDATE_INCOMPATIBLE"
	downgrade         = "INSTALL_FAILED_VERSION_DOWNGRADE"
	installInternal   = "INSTALL_FAILED_INTERNAL_ERROR"
	uninstallInternal = "DELETE_FAILED_INTERNAL_ERROR"
)

// javaError is an error of the system in the words of Android's libcore: "write failed: ENOSPC (No space left on device)".
func javaError(call string, err error) string {
	names := map[syscall.Errno]string{
		syscall.ENOSPC: "ENOSPC (No space left on device)", syscall.EACCES: "EACCES (Permission denied)", syscall.EPERM: "EPERM (Operation not permitted)",
		syscall.EROFS: "EROFS (Read-only file system)", syscall.EIO: "EIO (I/O error)", syscall.ENOENT: "ENOENT (No such file or directory)",
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && names[errno] != "" {
		return call + " failed: " + names[errno]
	}
	return err.Error()
}
