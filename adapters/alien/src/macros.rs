//! What the kernel expands.

/// Makes a type of the kernel around a [`Disk`](crate::Disk), and implements the kernel's traits for it: `DeviceBase`,
/// `BlockDevice` and `LowBlockDevice`.
///
/// `errors` is the type of the kernel's error numbers, `traits` the module that has the traits. The
/// [crate's documentation](crate) has an example.
#[macro_export]
macro_rules! block_device {
    (
        $(#[$attribute:meta])* $visibility:vis struct $name:ident($disk:ty);
        errors: $errno:ty;
        traits: $traits:path;
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        $visibility struct $name(pub $disk);

        const _: () = {
            use $traits as kernel;

            fn errno(errno: $crate::Errno) -> $errno {
                match errno {
                    $crate::Errno::EIO => <$errno>::EIO,
                    $crate::Errno::ENOMEM => <$errno>::ENOMEM,
                    $crate::Errno::EFAULT => <$errno>::EFAULT,
                    $crate::Errno::EINVAL => <$errno>::EINVAL,
                    $crate::Errno::ENOSPC => <$errno>::ENOSPC,
                    $crate::Errno::EROFS => <$errno>::EROFS,
                    $crate::Errno::EOPNOTSUPP => <$errno>::EOPNOTSUPP,
                }
            }

            impl kernel::DeviceBase for $name {
                fn handle_irq(&self) {
                    self.0.handle_irq()
                }
            }

            impl kernel::BlockDevice for $name {
                fn read(&self, buf: &mut [u8], offset: usize) -> Result<usize, $errno> {
                    self.0.read(buf, offset).map_err(errno)
                }

                fn write(&self, buf: &[u8], offset: usize) -> Result<usize, $errno> {
                    self.0.write(buf, offset).map_err(errno)
                }

                fn size(&self) -> usize {
                    self.0.size()
                }

                fn flush(&self) -> Result<(), $errno> {
                    self.0.flush().map_err(errno)
                }
            }

            impl kernel::LowBlockDevice for $name {
                fn read_block(&self, block_id: usize, buf: &mut [u8]) -> Result<(), $errno> {
                    self.0.read_block(block_id, buf).map_err(errno)
                }

                fn write_block(&self, block_id: usize, buf: &[u8]) -> Result<(), $errno> {
                    self.0.write_block(block_id, buf).map_err(errno)
                }

                fn capacity(&self) -> usize {
                    self.0.capacity()
                }

                fn read_block_async(&self, block_id: usize, buf: &mut [u8]) -> Result<(), $errno> {
                    self.0.read_block(block_id, buf).map_err(errno)
                }

                fn write_block_async(&self, block_id: usize, buf: &[u8]) -> Result<(), $errno> {
                    self.0.write_block(block_id, buf).map_err(errno)
                }

                fn handle_irq(&self) {
                    self.0.handle_irq()
                }

                fn flush(&self) {
                    // It is in the log; this trait has no way to tell.
                    let _ = self.0.flush();
                }
            }
        };
    };
}
