// What the scripts use of QuPath, over one JSON file: images, what is saved of them, and what is open.
// Methods bear their names of QuPath 0.3.2 in the classes that end in Old, those of 0.7 in the others.
package stub

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import java.awt.image.BufferedImage

class Project {
    static final boolean OLD = System.getProperty("qupath") == "0.3"
    File file
    Map data
    List images

    Project(File file) {
        this.file = file
        data = (Map) new JsonSlurper().parse(file)
        images = data.images.collect { OLD ? new EntryOld(this, it) : new EntryNew(this, it) }
    }

    void write() { file.setText(JsonOutput.prettyPrint(JsonOutput.toJson(data)), "UTF-8") }
    List getImageList() { images }
    java.nio.file.Path getPath() { new File(data.path).toPath() }
    def getEntry(imageData) { images.find { it.data.is(imageData.entry.data) } }
    void syncChanges() { write() }

    def addImage(builder) {
        def added = [id: "m" + images.size(), name: "", uri: builder.file.toURI().toString(), kind: "DefaultImageServerBuilder",
            args: [], width: 1, height: 1, mpp: 1, metadata: [:], saved: false, objects: [], readBy: builder.reader]
        data.images << added
        images << (OLD ? new EntryOld(this, added) : new EntryNew(this, added))
        return images[-1]
    }
}

abstract class Entry {
    Project project
    Map data

    String getID() { data.id }
    String getImageName() { data.name }
    void setImageName(String name) { data.name = name }
    boolean hasImageData() { data.saved }
    def getServerBuilder() {
        data.kind == "DefaultImageServerBuilder" ? new DefaultImageServerBuilder(data) : new RotatedImageServerBuilder(data)
    }
    String getMetadataValue(String key) { data.metadata[key] }
    String putMetadataValue(String key, String value) { data.metadata[key] = value; project.write() }
    Hierarchy readHierarchy() {
        if (data.broken == "data")
            throw new IOException("data.qpdata is cut off")
        Project.OLD ? new HierarchyOld(data.objects) : new HierarchyNew(data.objects)
    }
    ImageData readImageData() {
        if (data.broken)
            throw new IOException("no such slide")
        new ImageData(entry: this, server: getServerBuilder().build(), hierarchy: readHierarchy())
    }
    void saveImageData(ImageData imageData) {
        data.saved = true
        data.saves = (data.saves ?: 0) + 1
        data.objects = imageData.hierarchy.objects.collect { it.toMap() }
        project.write()
    }
}

class EntryOld extends Entry {
    EntryOld(project, data) { this.project = project; this.data = data }
    Collection getUris() { [new URI(data.uri)] }
    Map getMetadataMap() { data.metadata }
}

class EntryNew extends Entry {
    EntryNew(project, data) { this.project = project; this.data = data }
    Collection getURIs() { [new URI(data.uri)] }
    Map getMetadata() { data.metadata }
}

class DefaultImageServerBuilder {
    Map data
    File file
    String reader
    int levels = 1

    DefaultImageServerBuilder(Map data) { this.data = data }
    String[] getArgs() { data.args as String[] }
    def build() {
        if (data.broken)
            throw new IOException("no such slide")
        Project.OLD ? new ServerOld(this) : new ServerNew(this)
    }
}

class RotatedImageServerBuilder {
    Map data

    RotatedImageServerBuilder(Map data) { this.data = data }
    def build() { Project.OLD ? new ServerOld(this) : new ServerNew(this) }
}

class Calibration {
    double x, y

    Calibration(mpp) { x = mpp == null ? Double.NaN : mpp instanceof List ? mpp[0] : mpp; y = mpp instanceof List ? mpp[1] : x }
    double getPixelWidthMicrons() { x }
    double getPixelHeightMicrons() { y }
}

abstract class Server {
    def builder

    int getWidth() { builder.data.width }
    int getHeight() { builder.data.height }
    int nResolutions() { builder.hasProperty("levels") ? builder.levels : 1 }
    String getPath() { builder.data.uri }
    def getPixelCalibration() { new Calibration(builder.data.mpp) }
    def getMetadata() { new Metadata(calibration: new Calibration(builder.data.mpp)) }
    def getOriginalMetadata() {
        new Metadata(calibration: new Calibration(builder.data.containsKey("own_mpp") ? builder.data.own_mpp : builder.data.mpp))
    }
    void close() {}
    BufferedImage pixels(request) {
        int w = Math.ceil(request.width / request.downsample) as int, h = Math.ceil(request.height / request.downsample) as int
        def image = new BufferedImage(w, h, BufferedImage.TYPE_BYTE_GRAY)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                int column = Math.min(getWidth() - 1, request.x + (int) ((x + 0.5d) * request.downsample))
                int row = Math.min(getHeight() - 1, request.y + (int) ((y + 0.5d) * request.downsample))
                image.getRaster().setSample(x, y, 0, builder.data.values[row][column])
            }
        return image
    }
}

class ServerOld extends Server {
    ServerOld(builder) { this.builder = builder }
    BufferedImage readBufferedImage(request) { pixels(request) }
}

class ServerNew extends Server {
    ServerNew(builder) { this.builder = builder }
    BufferedImage readRegion(request) { pixels(request) }
}

class Metadata {
    Calibration calibration

    def getPixelCalibration() { calibration }
}

class ImageData extends qupath.lib.images.ImageData {
    def entry, server, hierarchy
    boolean changed = false

    boolean isChanged() { changed }
    void setImageType(type) { entry.data.type = type.toString() }
}

abstract class Hierarchy {
    List objects

    Hierarchy(List objects) { this.objects = objects.collect { new PathObject(it) } }
    Collection getAnnotationObjects() { objects.findAll { it.type == "annotation" } }
    void removeObjects(Collection gone, boolean keepChildren) { objects.removeAll { o -> gone.any { it.is(o) } } }
}

class HierarchyOld extends Hierarchy {
    HierarchyOld(List objects) { super(objects) }
    void addPathObjects(Collection added) { objects.addAll(added) }
}

class HierarchyNew extends Hierarchy {
    HierarchyNew(List objects) { super(objects) }
    void addObjects(Collection added) { objects.addAll(added) }
}

class PathObject {
    String type
    PathClass pathClass
    ROI roi
    def measurementList

    PathObject(Map data) {
        type = data.type ?: "annotation"
        pathClass = data["class"] == null ? null : new PathClass(name: data["class"])
        roi = new ROI(ring: data.ring)
        measurementList = Project.OLD ? new MeasurementsOld(data.measurements ?: [:]) : new MeasurementsNew(data.measurements ?: [:])
    }

    ROI getROI() { roi }
    void setROI(ROI roi) { this.roi = roi }
    Map toMap() { [type: type, "class": pathClass?.name, ring: roi.ring, measurements: measurementList.values] }
}

class PathClass {
    String name

    String toString() { name }
}

abstract class Measurements {
    Map values = [:]
}

class MeasurementsOld extends Measurements {
    MeasurementsOld(Map values) { this.values.putAll(values) }
    double getMeasurementValue(String key) { values[key] == null ? Double.NaN : values[key] }
    void putMeasurement(String key, double value) { values[key] = value }
}

class MeasurementsNew extends Measurements {
    MeasurementsNew(Map values) { this.values.putAll(values) }
    double get(String key) { values[key] == null ? Double.NaN : values[key] }
    void put(String key, double value) { values[key] = value }
}

class ROI {
    List ring

    double getArea() { Math.abs(twice()) / 2 }
    double getCentroidX() { ring.collect { it[0] }.sum() / ring.size() }
    double getCentroidY() { ring.collect { it[1] }.sum() / ring.size() }
    ROI translate(double dx, double dy) { new ROI(ring: ring.collect { [it[0] + dx, it[1] + dy] }) }
    private double twice() {
        double sum = 0
        for (int i = 0; i < ring.size(); i++) {
            def a = ring[i], b = ring[(i + 1) % ring.size()]
            sum += a[0] * b[1] - a[1] * b[0]
        }
        return sum
    }
}

class Viewer {
    def imageData
    List layers = []

    def getImageData() { imageData }
    List getCustomOverlayLayers() { layers }
    int getZPosition() { 0 }
    int getTPosition() { 0 }
    void repaint() {}
}

class GuiOld {
    List viewers

    void refreshProject() {}
}

class GuiNew {
    List allViewers

    void refreshProject() {}
}

// What one run of a script has before it
class Session {
    static final Session ONE = new Session()
    Project project
    List viewers = []

    Session() {
        project = new Project(new File(System.getProperty("project")))
        project.images.each { entry ->
            if (entry.data.open) {
                def data = entry.readImageData()
                data.changed = entry.data.open == "changed"
                viewers << new Viewer(imageData: data)
            }
        }
    }

    // The layers over the first viewer, for the test to look at
    void leave() {
        def folder = project.file.getParentFile()
        viewers.each { viewer ->
            viewer.layers.each { layer ->
                layer.regions.each { region, image ->
                    javax.imageio.ImageIO.write(image, "png", new File(folder, "overlay.png"))
                    new File(folder, "overlay.json").text = JsonOutput.toJson([x: region.x, y: region.y, width: region.width,
                        height: region.height, layers: viewer.layers.size()])
                }
            }
        }
    }
}

// Base of the scripts: what QuPath gives them by name
abstract class QPScript extends Script {
    def getProject() { Session.ONE.project }
    def getQuPath() { Project.OLD ? new GuiOld(viewers: Session.ONE.viewers) : new GuiNew(allViewers: Session.ONE.viewers) }
    def getCurrentViewer() { Session.ONE.viewers ? Session.ONE.viewers[0] : null }
    def getPathClass(String name, Integer color = null) { new PathClass(name: name) }

    abstract def body()

    def run() {
        body()
        Session.ONE.leave()
    }
}
