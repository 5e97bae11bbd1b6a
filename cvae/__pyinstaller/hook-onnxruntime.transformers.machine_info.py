"""Hook for the one module of onnxruntime, a report about the machine, through which an app would contain torch."""

excludedimports = ["torch"]
