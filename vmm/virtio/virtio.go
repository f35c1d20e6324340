// SPDX-License-Identifier: BSD-2-Clause

package virtio

// Device types (VIRTIO 1.2, section 5).
const (
	TypeNet     = 1
	TypeBlock   = 2
	TypeConsole = 3
	TypeRNG     = 4
	TypeP9      = 9
	TypeVsock   = 19
)

// Feature bits that belong to the queue and transport (VIRTIO 1.2, section 6).
const (
	FeatureRingIndirect  = 1 << 28
	FeatureRingEventIdx  = 1 << 29
	FeatureVersion1      = 1 << 32
	FeatureAccessMemory  = 1 << 33 // VIRTIO_F_ACCESS_PLATFORM: not offered
	FeatureRingReset     = 1 << 40
	transportFeatures    = FeatureRingIndirect | FeatureRingEventIdx | FeatureVersion1 | FeatureRingReset
	maxQueueSize         = 32768
	noVector             = 0xffff
	maxDeviceConfigBytes = 4096
)

// Device status bits (VIRTIO 1.2, section 2.1).
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// Info is what a device is; it never changes.
type Info struct {
	Type  uint16 // TypeBlock and the like
	Class uint32 // PCI class code, 24 bits
	Name  string // for errors
	// Queues holds the largest size of each queue: powers of two.
	Queues []uint16
	// MaxSegments bounds the descriptors of one chain, indirect ones counted
	// one by one; 0 means the queue's size. Longer chains are a violation.
	MaxSegments int
}

// Device is a virtio device without its transport. Methods other than Serve are
// called with the transport's lock held, so they must not block and must not
// call into the transport.
type Device interface {
	Info() Info
	// Features are the bits offered to the driver; the transport adds its own.
	Features() uint64
	// Negotiated tells the bits that the driver accepted (a subset of what was
	// offered). An error refuses them: FEATURES_OK stays clear.
	Negotiated(features uint64) error
	// ReadConfig fills p, which is zeroed, with the bytes at off of the
	// device-specific configuration; bytes behind its end stay zero.
	ReadConfig(off int, p []byte)
	// WriteConfig takes the driver's write to device-specific configuration.
	WriteConfig(off int, p []byte)
	// Serve works on queue i, on a goroutine of that queue, until
	// q.Stopping; it returns with every chain that it took finished (pushed or
	// returned). It may be called again for the same queue: after a pause with
	// nothing changed, or after a reset.
	Serve(i int, q *Queue)
	// Unblock makes Serve(i) leave any wait but q.Wait soon. q.Stopping is
	// already true when it is called.
	Unblock(i int)
	// Reset forgets what the driver said. No Serve is running.
	Reset()
	// Close releases what the device holds. No Serve is running, nor will be.
	// Twice does no harm.
	Close() error
}

// Transport is what a device may ask of the transport that carries it. Its
// methods may be called from any goroutine that holds no lock which a method of
// Device takes.
type Transport interface {
	// ConfigChanged tells the driver that device-specific configuration changed.
	ConfigChanged()
}

// Halter is implemented by a Device that has something to bring home when the
// machine ends: data to flush. No Serve is running, nor will be.
type Halter interface{ Halt() }

// Binder is implemented by a Device that wants to know its transport.
type Binder interface{ Bind(Transport) }
