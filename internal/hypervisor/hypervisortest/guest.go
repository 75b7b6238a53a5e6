package hypervisortest

import (
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
)

// DiskSize is the size of the disks made here, bytes.
const DiskSize = 1 << 20

// Banner is what the Polite guest says on its serial port when it is up. Then
// it sends back every byte it receives, and resets itself on an 'R'.
const Banner = "UP\r\n"

// Polite is a boot sector that shuts down when the power button is pressed. It
// runs at 0x7c00 on machines whose BIOS puts the ACPI registers at 0x600, as
// SeaBIOS does.
const Polite = "" +
	"\xfa" + //                          cli
	"\x31\xc0\x8e\xd8" + //              ds = 0
	"\xba\x02\x06\xb8\x00\x01\xef" + //  power button: enable
	"\xbe\x41\x7c\xba\xf8\x03\xb9\x04\x00\xfc\xf3\x6e" + // serial port: Banner
	"\xf3\x90" + //                      again: pause
	"\xba\xfd\x03\xec\xa8\x01\x74\x0d" + // serial port: nothing? on to the button
	"\xba\xf8\x03\xec" + //              al = what came
	"\x3c\x52\x75\x04\xb0\xfe\xe6\x64" + // 'R': reset by the keyboard controller
	"\xee" + //                          send it back
	"\xba\x00\x06\xed\xf6\xc4\x01\x74\xe0" + // button not pressed: again
	"\xba\x04\x06\xb8\x00\x20\xef" + //  power off
	"\xeb\xd7" + //                      again
	Banner //                            at 0x7c41

// Worker is a boot sector that obeys as Polite does, and uses its disk: each
// byte it receives it writes to the start of the second sector, by the BIOS, and
// sends back what it then reads there.
const Worker = "" +
	"\xfa" + //                          cli
	"\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c" + // ds = es = ss = 0, sp = 0x7c00
	"\x88\x16\x00\x7d" + //             [0x7d00] = dl, the disk we came from
	"\xba\x02\x06\xb8\x00\x01\xef" + //  power button: enable
	"\xbe\x78\x7c\xba\xf8\x03\xb9\x04\x00\xfc\xf3\x6e" + // serial port: Banner
	"\xf3\x90" + //                      again: pause
	"\xba\xfd\x03\xec\xa8\x01\x74\x1f" + // serial port: nothing? on to the button
	"\xba\xf8\x03\xec\xa2\x00\x80" + //  [0x8000] = what came
	"\xb8\x00\x43\xe8\x24\x00" + //      write the sector
	"\xc6\x06\x00\x80\x21" + //          [0x8000] = '!'
	"\xb8\x00\x42\xe8\x19\x00" + //      read the sector
	"\xa0\x00\x80\xba\xf8\x03\xee" + //  send [0x8000]
	"\xba\x00\x06\xed\xf6\xc4\x01\x74\xce" + // button not pressed: again
	"\xba\x04\x06\xb8\x00\x20\xef" + //  power off
	"\xeb\xc5" + //                      again
	"\xbe\x68\x7c\x8a\x16\x00\x7d\xcd\x13\xc3" + // int 0x13 with the packet below
	"\x10\x00\x01\x00\x00\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00" + // one sector, at 0:0x8000, LBA 1
	Banner //                            at 0x7c78

// WorkerByte is where on its disk a Worker writes.
const WorkerByte = 512

// Deaf is a boot sector that sleeps for good.
const Deaf = "\xfa\xf4\xeb\xfd" // cli; hlt; jump back

// Disk writes a disk that boots code and returns its path.
func Disk(t *testing.T, code string) string {
	t.Helper()
	b := make([]byte, DiskSize)
	copy(b, code)
	b[510], b[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Spec returns a small VM of a new identity that boots code from a disk on bus.
func Spec(t *testing.T, code, bus string) hypervisor.Spec {
	t.Helper()
	disk := dr.DiskID{UUID: dr.NewUUID()}
	return hypervisor.Spec{
		Config: dr.VMConfig{
			ID: dr.VMID{UUID: dr.NewUUID()}, Name: "vm, with=care", CPUs: 1, MemoryMiB: 16,
			Machine: "pc", Firmware: "bios",
			Disks: []dr.VMDisk{{ID: disk, Name: "system", Size: DiskSize, Bus: bus}},
			NICs:  []dr.NIC{{MAC: "52:54:00:00:00:01", Model: "virtio-net-pci", Network: "production"}},
		},
		Sources: map[dr.DiskID]hypervisor.Source{disk: {Path: Disk(t, code)}},
		StartOptions: hypervisor.StartOptions{
			Accelerator: hypervisor.TCG,
			Networks:    map[string]hypervisor.Network{"production": {Kind: hypervisor.Isolated}},
		},
	}
}
