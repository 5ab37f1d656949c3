package shape

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/vishvananda/netlink"
)

const (
	linkPrefix   = "ph-"  // of the host's end of a phone's link, which netpolicy/wire makes
	uploadPrefix = "phu-" // of the ifb for what it sends
	aliasPrefix  = "phonehost:"
	digits       = 10 // of the hash of the phone's id in both names
)

var (
	// tbfHandle is that of every qdisc of ours, by which it is told from others' ("ph" in ASCII).
	tbfHandle = netlink.MakeHandle(0x7068, 0)
	// filterPriority is behind that of the programs where they are filters as well (Linux before 6.6).
	filterPriority = uint16(0x7068)
)

func linkName(id string) string { return linkPrefix + hash(id) }

// UploadName is the name of the link through which goes what a phone sends when that is limited.
func UploadName(id string) string { return uploadPrefix + hash(id) }

func hash(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])[:digits]
}
