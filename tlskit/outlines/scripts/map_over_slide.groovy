/*
 * The probability map over the open slide (QuPath 0.3.2 to 0.7).
 *
 * Lays the map of the open image over it, from dark violet (5 %) to pale yellow (100 %), half transparent; below 5 %,
 * and where the network did not look, the slide is bare. Nothing is saved: it is gone when another image is opened.
 * View > Show pixel classification (key C) hides and shows it. Run it again to show the map of another folder; with
 * `results = ""` it takes the map away.
 */
import java.awt.image.BufferedImage
import javafx.application.Platform
import qupath.lib.gui.viewer.overlays.BufferedImageOverlay
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.GsonTools
import qupath.lib.regions.ImageRegion
import qupath.lib.regions.RegionRequest

// ---- What you may change -------------------------------------------------------------------------------------------
def results = "@ARM@"           // an arm of a run (".../outputs/demo/4x"), or the folder that `tlskit predict` wrote
def least = 0.05                // probability from which the map is drawn
def opacity = 0.5
def mostPx = 4096               // longest side of what is drawn, in pixels; the map's coarser levels are used for more

// ---- What it does --------------------------------------------------------------------------------------------------
def viewer = getCurrentViewer()
def imageData = viewer?.getImageData()
def project = getProject()
def open = imageData == null ? null : project?.getEntry(imageData)
if (open == null) {
    println "Open an image of a project first."
    return
}
def layers = viewer.getCustomOverlayLayers()
def show = { overlay ->
    Platform.runLater {
        layers.removeAll(layers.findAll { it instanceof BufferedImageOverlay })
        if (overlay != null)
            layers.add(overlay)
        viewer.repaint()
    }
}
if (!results) {
    show(null)
    println "The map is taken away."
    return
}
@COMMON@
@FOLDERS@
if (!found)
    return
def slideId = project.getImageList().findAll { !it.getImageName().startsWith("tlskit map ") }
    .collectEntries { [(it.getID()): idOf(it)] }[open.getID()]
def why = changed(open)
if (why != null) {
    println slideId + " " + why + ": the map would be shifted. Open the plain image."
    return
}
def map = found.maps[slideId]
if (map == null) {
    println "There is no map " + slideId + ".tif; there are " + (found.maps.keySet().sort().join(", ") ?: "none") + "."
    return
}

@BUILDER@

def server = builderOf(map).build()
try {
    // Where the map lies: it begins at the slide's corner, the image at the corner of what was scanned
    def file = found.geojsons[slideId]
    def about = file == null ? [:] : GsonTools.getInstance().fromJson(file.getText("UTF-8"), Map.class)["tlskit"] ?: [:]
    def image = imageData.getServer()
    int width = image.getWidth(), height = image.getHeight()
    def bounds = (about.bounds_px0 ?: [0, 0, width, height]).collect { it as double }
    def whole = argumentsOf(open).contains("--no-crop")
    double left = whole ? 0 : bounds[0], top = whole ? 0 : bounds[1]
    double mpp = server.getPixelCalibration().getPixelWidthMicrons()
    double mpp0 = about.mpp0 != null ? about.mpp0 as double : image.getPixelCalibration().getPixelWidthMicrons()
    def slide = (about.size_px0 ?: [width, height]).collect { it as double }
    // Pixels of the image along one of the map
    double d = Double.isNaN(mpp) ? slide[0] / server.getWidth() : mpp / mpp0
    if (Double.isNaN(d) || Math.abs(server.getWidth() * d - slide[0]) > 1.5 * d + 1 || Math.abs(server.getHeight() * d - slide[1]) > 1.5 * d + 1) {
        println "The map (" + server.getWidth() + " x " + server.getHeight() + " px of " + mpp + " um) is not of this image (" +
            width + " x " + height + " px of " + mpp0 + " um)" + (about ? "." : ", or there is no GeoJSON beside it that says where it lies.")
        return
    }
    // The part of the map that lies on the image, in whole pixels of the map
    int x = Math.max(0, Math.floor(left / d)), y = Math.max(0, Math.floor(top / d))
    int w = Math.min(server.getWidth(), Math.ceil((left + width) / d)) - x
    int h = Math.min(server.getHeight(), Math.ceil((top + height) / d)) - y
    double downsample = Math.max(1, Math.max(w, h) / (double) mostPx)
    def values = firstOf(server, ["readRegion", "readBufferedImage"],
        RegionRequest.createInstance(server.getPath(), downsample, x, y, w, h)).getRaster()

    // Colours that grow lighter evenly; bare below the least
    def anchors = [[40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]]
    def colours = new int[256]
    for (int v = 0; v < 256; v++) {
        double at = v / 255d * (anchors.size() - 1)
        int i = Math.min(anchors.size() - 2, (int) at)
        def rgb = (0..2).collect { Math.round(anchors[i][it] + (at - i) * (anchors[i + 1][it] - anchors[i][it])) as int }
        int alpha = v < least * 255 ? 0 : Math.round(255 * opacity) as int
        colours[v] = (alpha << 24) | (rgb[0] << 16) | (rgb[1] << 8) | rgb[2]
    }
    def picture = new BufferedImage(values.getWidth(), values.getHeight(), BufferedImage.TYPE_INT_ARGB)
    def line = new int[values.getWidth()]
    for (int row = 0; row < values.getHeight(); row++) {
        values.getSamples(values.getMinX(), values.getMinY() + row, line.length, 1, 0, line)
        for (int i = 0; i < line.length; i++)
            line[i] = colours[line[i] & 255]
        picture.setRGB(0, row, line.length, 1, line, 0, line.length)
    }
    def region = ImageRegion.createInstance(Math.round(x * d - left) as int, Math.round(y * d - top) as int,
        Math.round(w * d) as int, Math.round(h * d) as int, viewer.getZPosition(), viewer.getTPosition())
    show(new BufferedImageOverlay(viewer, [(region): picture]))
    println slideId + ": map of " + found.name + " (" + server.nResolutions() + " levels, drawn " + values.getWidth() + " x " +
        values.getHeight() + " px) over " + region.getWidth() + " x " + region.getHeight() + " px from " + region.getX() + ", " + region.getY()
} finally {
    server.close()
}
